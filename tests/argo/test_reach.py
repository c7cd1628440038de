"""Whether users and Prometheus get through to a candidate: by real requests over HTTP and TLS."""

import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from argo.api_server import ApiServer, stand_in
from argo.targets import TARGET

from modelyard.delivery.cluster import reach
from modelyard.delivery.cluster.client import Cluster
from modelyard.delivery.cluster.reach import Answer, GatewayReach, answer, gateway_urls, unscraped
from modelyard.delivery.policy import Kubernetes
from modelyard.documents import UserError

HOST = TARGET.host
ROUTE = ("gateway.networking.k8s.io/v1", "HTTPRoute")


class Gateway(BaseHTTPRequestHandler):
    """A Gateway as a client sees it; `answers` is by host and token, as its routes would be."""

    answers: Callable[[dict[str, str]], tuple[int, str | None, str]]
    asked: list[tuple[str, dict[str, str]]]

    def do_GET(self) -> None:
        headers = {key.lower(): value for key, value in self.headers.items()}
        self.asked.append((self.path, headers))
        status, version, body = type(self).answers(headers)
        self.send_response(status)
        if version:
            self.send_header("x-model-version", version)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def gateway(
    status: int = 200,
    version: str | None = "2",
    body: str = "",
    context: ssl.SSLContext | None = None,
) -> Iterator[tuple[str, list[tuple[str, dict[str, str]]]]]:
    """Its URL, and what it was asked."""
    asked: list[tuple[str, dict[str, str]]] = []
    content = {"asked": asked, "answers": staticmethod(lambda headers: (status, version, body))}
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Gateway,), content)) as server:
        if context:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        scheme = "https" if context else "http"
        yield f"{scheme}://127.0.0.1:{server.server_port}", asked
        server.shutdown()


@contextmanager
def mute() -> Iterator[str]:
    """Takes connections and never answers, as a Gateway whose packets to the pods are dropped."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_a_request_goes_the_way_of_the_users_with_the_token() -> None:
    with gateway() as (url, asked):
        assert reach.unreached(TARGET, 2, answer(url, HOST, "s3cret")) == ""
    ((path, headers),) = asked
    assert path == "/model"
    assert (headers["host"], headers["x-modelyard-probe"]) == (HOST, "s3cret")


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (Answer("u", connected=False, detail="refused"), ["edge/public", "refused", "gateway_url"]),
        (Answer("u", trusted=False, detail="expired"), ["certificate", HOST, "expired"]),
        (Answer("u", detail="timed out"), ["timed out", "NetworkPolicy flight-delay", "`proxies`"]),
        (Answer("u", 503, None, "no healthy upstream"), ["503: no healthy", "[edge, 10.0.0.0/8]"]),
        (Answer("u", 504), ["504", "`proxies`"]),
        (Answer("u", 404), ["404", f"host {HOST}", "listener"]),
        (Answer("u", 200), ["200", "itself", "`probe: false`"]),
        (Answer("u", 401), ["401", "itself", "`probe: false`"]),
        (Answer("u", 200, "1"), ["version 1 answers 200", "not version 2"]),
        (Answer("u", 503, "2"), ["version 2 answers 503"]),
    ],
)
def test_an_answer_names_what_is_in_the_way(seen: Answer, words: list[str]) -> None:
    found = reach.unreached(replace(TARGET, proxies=("edge", "10.0.0.0/8")), 2, seen)
    assert all(word in found for word in words), found
    assert "\n" not in found
    assert ("NetworkPolicy" in found) == ("`proxies`" in words or "[edge, 10.0.0.0/8]" in words)


def test_answers_of_gateways_that_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "_TIMEOUT_S", 0.5)
    with gateway(503, None, "upstream connect error\nor  disconnect") as (url, _):
        seen = answer(url, HOST, "t")
        assert (seen.status, seen.version) == (503, None)
        assert seen.detail == "upstream connect error or disconnect"
    assert not answer(url, HOST, "t").connected  # nobody listens there any more
    with mute() as url:
        seen = answer(url, HOST, "t")
        assert seen.connected and seen.status is None


@pytest.mark.parametrize(
    ("up", "routes_known", "words"),
    [
        ([], True, ["no pod|not found", "PodMonitor flight-delay", "{team: a}", "monitor_labels"]),
        ([True, False], True, ["1 of 2 pods", "NetworkPolicy flight-delay", "[obs]", "scrapers"]),
        ([True], False, ["Envoys", "PodMonitor", "source: servers"]),
    ],
)
def test_prometheus_names_what_is_in_the_way(
    up: list[bool], routes_known: bool, words: list[str]
) -> None:
    target = replace(TARGET, scrapers=("obs",), monitor_labels={"team": "a"})
    found = unscraped(target, 2, up, routes_known)
    assert all(any(w in found for w in word.split("|")) for word in words), found
    assert unscraped(target, 2, [True, True], True) == ""


def listener(port: int, protocol: str = "HTTP", come_from: str | None = "All", **more: Any) -> dict:
    allowed = {"namespaces": {"from": come_from}} if come_from else None
    return {"port": port, "protocol": protocol, "allowedRoutes": allowed, **more}


@pytest.mark.parametrize(
    ("addresses", "listeners", "urls"),
    [
        (["10.0.0.1"], [listener(80)], ["http://10.0.0.1:80"]),
        (
            ["10.0.0.1", "10.0.0.2"],
            [listener(443, "HTTPS"), listener(8080)],
            ["http://10.0.0.1:8080", "https://10.0.0.1:443"],
        ),
        (["lb.example.net"], [listener(443, "HTTPS")], ["https://lb.example.net:443"]),
        (["fd00::1"], [listener(80)], ["http://[fd00::1]:80"]),
        ([], [listener(80)], []),
        (["10.0.0.1"], [listener(53, "UDP"), listener(443, "TLS")], []),
        (["10.0.0.1"], [listener(80, hostname="other.example.com")], []),
        (["10.0.0.1"], [listener(80, hostname="*.example.com")], ["http://10.0.0.1:80"]),
        (["10.0.0.1"], [listener(80, hostname=HOST)], ["http://10.0.0.1:80"]),
        # routes of another namespace are let in by neither of these
        (["10.0.0.1"], [listener(80, come_from="Same"), listener(81, come_from=None)], []),
        (["10.0.0.1"], [listener(80, come_from="Selector")], ["http://10.0.0.1:80"]),
    ],
)
def test_where_a_gateway_listens(
    addresses: list[str], listeners: list[dict[str, Any]], urls: list[str]
) -> None:
    found = {
        "metadata": {"namespace": "edge"},
        "spec": {"listeners": listeners},
        "status": {"addresses": [{"value": each} for each in addresses]},
    }
    assert gateway_urls(found, TARGET) == urls


# --- TLS --------------------------------------------------------------------------------


def certificate(folder: Path, *, days: int = 2, issued: bool = False) -> Path:
    """A certificate for HOST with its key: self-signed, or of an authority in `ca.pem`."""
    key, request, file = (folder / name for name in ("key.pem", "request.pem", "cert.pem"))
    new = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    name = ["-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}"]
    signer = ["-signkey", str(key)]
    if issued:
        signer = ["-CA", str(folder / "ca.pem"), "-CAkey", str(folder / "ca.key")]
        made = ["-subj", "/CN=An authority", "-out", signer[1], "-keyout", signer[3]]
        openssl(*new, "-x509", *made)
    openssl(*new, "-new", *name, "-keyout", str(key), "-out", str(request))
    valid = ["-days", str(days), "-copy_extensions", "copy"]
    openssl("x509", "-req", "-in", str(request), *signer, *valid, "-out", str(file))
    file.write_text(file.read_text() + key.read_text())
    return file


def openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def speaking(file: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


@pytest.mark.parametrize("issued", [False, True])
def test_a_certificate_of_an_unknown_issuer_is_said(
    tmp_path: Path, issued: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whom the users trust is not known here; that it is the host's own is checked."""
    with gateway(context=speaking(certificate(tmp_path, issued=issued))) as (url, _):
        assert reach.unreached(TARGET, 2, answer(url, HOST, "t")) == ""
        assert "of an issuer that this image does not know" in capsys.readouterr().err
        other = answer(url, "other.example.com", "t")
    assert not other.trusted and "not valid for 'other.example.com'" in other.detail


def test_a_certificate_of_a_known_issuer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = certificate(tmp_path, issued=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with gateway(context=speaking(file)) as (url, _):
        assert reach.unreached(TARGET, 2, answer(url, HOST, "t")) == ""
        assert capsys.readouterr().err == ""
        other = answer(url, "other.example.com", "t")
    assert not other.trusted and "not valid for 'other.example.com'" in other.detail


def test_a_certificate_that_has_expired(tmp_path: Path) -> None:
    with gateway(context=speaking(certificate(tmp_path, days=-1))) as (url, _):
        seen = answer(url, HOST, "t")
    assert not seen.trusted and "expired" in seen.detail


# --- with the API server ----------------------------------------------------------------


class Source:
    """Prometheus' answers."""

    def __init__(self, up: list[bool], known: bool = True) -> None:
        self._up, self._known = up, known

    def up(self, version: int) -> list[bool]:
        assert version == 2
        return self._up

    def knows_routes(self, names: tuple[str, ...]) -> bool:
        assert names == ("flight-delay", "flight-delay-probe")
        return self._known


class Down:
    def up(self, version: int) -> list[bool]:
        raise ConnectionError("Prometheus at http://prometheus does not answer: refused")


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiServer]:
    with stand_in(tmp_path) as server:
        yield server


def made(url: str) -> dict[str, Any]:
    """The Gateway edge/public, at a URL."""
    port = int(url.rsplit(":", 1)[1])
    return {
        "apiVersion": ROUTE[0],
        "kind": "Gateway",
        "metadata": {"name": "public", "namespace": "edge"},
        "spec": {"gatewayClassName": "eg", "listeners": [listener(port)]},
        "status": {"addresses": [{"value": "127.0.0.1"}]},
    }


def reaching(source: Any, **settings: Any) -> tuple[GatewayReach, Cluster]:
    place = {"platform": "kubernetes", "namespace": TARGET.namespace, "host": HOST, **settings}
    environment = Kubernetes.model_validate(place)
    cluster = Cluster(TARGET.namespace)
    target = replace(TARGET, gateway_url=environment.gateway_url)
    return GatewayReach(cluster, target, source, environment), cluster


def test_a_way_of_its_own_that_is_taken_away(api: ApiServer) -> None:
    """Through the address that the Gateway itself names; also what a crash has left."""
    found, cluster = reaching(Source([True]), metrics={"source": "envoy-gateway"})
    with gateway() as (url, asked):
        Cluster("edge").create(made(url))
        assert found.problem(2) == ""
        route = cluster.get(ROUTE, "flight-delay-probe")
        assert route is not None
        header = route["spec"]["rules"][0]["matches"][0]["headers"][0]
        assert asked[0][1][header["name"]] == header["value"] and len(header["value"]) == 32
        assert found.problem(2) == "" and len(asked) == 1, "once is enough"
    again, _ = reaching(Source([True]))
    for _ in range(2):
        again.end()
    assert cluster.get(ROUTE, "flight-delay-probe") is None


def test_what_is_in_the_way_of_asking(api: ApiServer) -> None:
    found, _ = reaching(Source([True]))
    assert "there is no Gateway edge/public: set `gateway`" in found.problem(2)
    api.forbidden = {"gateways"}
    problem = found.problem(2)
    assert "is forbidden" in problem and "`gateway_url`" in problem
    with gateway() as (url, _):
        found, _ = reaching(Source([True]), gateway_url=url)
        assert found.problem(2) == "", "needs no Gateway to be read"
    api.forbidden = set()
    api.gateway = False
    Cluster("edge").create(made("http://127.0.0.1:1"))
    problem = reaching(Source([True]))[0].problem(2)
    assert "HTTPRoute flight-delay-probe" in problem and "no Gateway has taken it" in problem
    api.forbidden = {"httproutes"}
    with pytest.raises(UserError, match="forbidden"):
        reaching(Source([True]))[0].problem(2)


def test_a_gateway_that_gets_no_answer(api: ApiServer) -> None:
    with gateway(503, None, "no healthy upstream") as (url, _):
        Cluster("edge").create(made(url))
        found, cluster = reaching(Source([True]))
        assert "NetworkPolicy flight-delay" in found.problem(2)
        assert cluster.get(ROUTE, "flight-delay-probe") is not None, "tried again at the next look"
    with gateway() as (url, _):
        mended, _ = reaching(Source([False]), gateway_url=url)
        assert "can't scrape 1 of 1 pods" in mended.problem(2)


@pytest.mark.parametrize(
    ("source", "settings", "problem"),
    [
        (Source([]), {}, "PodMonitor"),
        (Source([]), {"metrics": {"age": "vector(1)"}}, ""),  # it is the team's own to know
        (Source([True], known=False), {}, ""),
        (Source([True], known=False), {"metrics": {"source": "envoy-gateway"}}, ""),
        (Down(), {}, "does not answer: refused; is that the URL of Prometheus"),
    ],
)
def test_no_request_where_the_policy_wants_none(
    api: ApiServer, source: Any, settings: dict[str, Any], problem: str
) -> None:
    found, cluster = reaching(source, probe=False, **settings)
    told = found.problem(2)
    assert problem in told and bool(problem) == bool(told)
    assert cluster.get(ROUTE, "flight-delay-probe") is None


def test_a_gateway_whose_envoys_are_not_scraped(api: ApiServer) -> None:
    with gateway() as (url, _):
        settings = {"gateway_url": url, "metrics": {"source": "envoy-gateway"}}
        found, _ = reaching(Source([True], known=False), **settings)
        assert "no counts of this model from the Gateway's Envoys" in found.problem(2)
