"""Evidence from a real Prometheus that scrapes real exporters, one a version."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest
import yaml
from argo.prometheus_server import BINARY, Pod, free_port, running, server, until

from modelyard.delivery.cluster.prometheus import Prometheus, number, same_edges
from modelyard.delivery.evidence.counts import Arm, Counts
from modelyard.delivery.policy import Metrics
from modelyard.delivery.ports import Routes

pytestmark = [
    pytest.mark.skipif(BINARY is None, reason="no prometheus here (apt-get install prometheus)"),
    pytest.mark.xdist_group("prometheus"),
]
BOTH = Routes(stable=1, candidate=2, weight=25)


@pytest.fixture(scope="module")
def ports() -> dict[str, int]:
    return {"1": free_port(), "2": free_port()}


@pytest.fixture(scope="module")
def pods(ports: dict[str, int]) -> Iterator[dict[str, Pod]]:
    made = {version: Pod(port) for version, port in ports.items()}
    yield made
    for pod in made.values():
        pod.stop()


@pytest.fixture(scope="module")
def url(
    tmp_path_factory: pytest.TempPathFactory, ports: dict[str, int], pods: dict[str, Pod]
) -> Iterator[str]:
    """A Prometheus that has scraped both versions' pods."""
    with server(tmp_path_factory.mktemp("prometheus"), ports) as address:
        source = Prometheus(address, "flight-delay", "production")
        until(lambda: source.counts(BOTH, time.time()).stable is not None)
        yield address


def test_counts(pods: dict[str, Pod], ports: dict[str, int], url: str) -> None:
    source, since = Prometheus(url, "flight-delay", "production"), time.time()

    def counts() -> Counts:
        return source.counts(BOTH, since)

    quiet = counts()
    assert quiet.stable and quiet.candidate
    assert quiet.stable.requests == quiet.candidate.requests == 0  # up, and not asked yet

    pods["1"].answer(30, 200, 0.005)
    pods["2"].answer(8, 200, 0.05)
    pods["2"].answer(2, 500, 2)
    pods["2"].answer(5, 200, 0.001, path="/readyz")  # no user's request
    pods["2"].score(0.1, 0.3, 0.4)
    until(lambda: (arm := counts().candidate) is not None and arm.requests == 10)
    until(lambda: (arm := counts().stable) is not None and arm.requests == 30)
    seen = counts()
    assert seen.stable and seen.stable.failures == 0
    assert seen.stable.latency == {10.0: 30, 100.0: 0, 1000.0: 0, float("inf"): 0}
    assert seen.candidate and seen.candidate.failures == 2
    assert seen.candidate.latency == {10.0: 0, 100.0: 8, 1000.0: 0, float("inf"): 2}
    assert seen.candidate.scores == {0.25: 1, 0.5: 2, 1.0: 0, float("inf"): 0}
    assert seen.stable.scores == dict.fromkeys(seen.candidate.scores, 0)
    assert seen.epoch == quiet.epoch

    pods["2"].stop()  # its container restarts: the same pod, counting from 0 again
    pods["2"] = Pod(ports["2"])
    pods["2"].answer(1, 200, 0.05)
    until(lambda: counts().epoch != quiet.epoch)

    pods["2"].stop()

    def gone() -> bool:
        try:
            counts()
        except ConnectionError as error:
            return "does not scrape all that counts version 2" in str(error)
        return False

    until(gone)
    pods["2"] = Pod(ports["2"])
    until(lambda: counts().candidate is not None)


def test_counts_are_as_old_as_the_last_scrape(
    pods: dict[str, Pod], ports: dict[str, int], tmp_path: Path
) -> None:
    with server(tmp_path, ports, interval="2s") as url:
        source, since = Prometheus(url, "flight-delay", "production"), time.time()
        until(lambda: time.time() - source.counts(BOTH, since).time > 1)


SERVICE = """
import bentoml
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


@bentoml.service(name="flight-delay")
class Service: ...


async def predict(request: Request) -> Response:
    return Response("", int(request.query_params["status"]))


Service.mount_asgi_app(Starlette(routes=[Route("/predict", predict, methods=["POST"])]))
"""


def test_bentoml_counts_what_is_asked_for(tmp_path: Path) -> None:
    """The names of BentoML's metrics are not ours: a real server, asked and scraped."""
    serving, watching = tmp_path / "serving", tmp_path / "watching"
    serving.mkdir(), watching.mkdir()
    (serving / "service.py").write_text(SERVICE)
    port = free_port()
    bentoml = str(Path(sys.executable).with_name("bentoml"))
    command = [bentoml, "serve", "service:Service", "--host", "127.0.0.1", "--port", str(port)]
    home = {"BENTOML_HOME": str(serving / "home"), "BENTOML_DO_NOT_TRACK": "True"}
    address, since = f"http://127.0.0.1:{port}", time.time()
    with running(command, serving, **home), server(watching, {"1": port}) as url:
        source = Prometheus(url, "flight-delay", "production")
        until(lambda: httpx.get(f"{address}/readyz").status_code == 200)
        for status in (200, 200, 200, 422, 500):
            httpx.post(f"{address}/predict", params={"status": status})

        def counted() -> bool:
            arm = source.counts(Routes(stable=1), since).stable
            return arm is not None and arm.requests == 5 and sum(arm.latency.values()) == 5

        until(counted)
        arm = source.counts(Routes(stable=1), since).stable
        assert arm is not None and arm.failures == 2
        assert min(arm.latency) == 5.0 and max(arm.latency) == float("inf")


# --- what Envoy Gateway's Envoys count -------------------------------------------------

RULE = "httproute/production/flight-delay/rule/0"


class Backend(BaseHTTPRequestHandler):
    """A version of the model: answers with the status that its server was made with."""

    status: int

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        self.send_response(self.status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def backend(status: int) -> Iterator[int]:
    handler = type("Handler", (Backend,), {"status": status})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        Thread(target=served.serve_forever, daemon=True).start()
        yield served.server_port
        served.shutdown()


def gateway(folder: Path, admin: int, users: int, clusters: dict[str, int]) -> Path:
    """An Envoy's configuration as Envoy Gateway makes it of a route with a filter a backend:
    a weighted cluster for each backend, and one for the mirror. Its histograms are Envoy's own.
    """

    def address(port: int) -> dict[str, Any]:
        return {"socket_address": {"address": "127.0.0.1", "port_value": port}}

    def cluster(name: str, port: int) -> dict[str, Any]:
        endpoints = [{"lb_endpoints": [{"endpoint": {"address": address(port)}}]}]
        load = {"cluster_name": name, "endpoints": endpoints}
        return {"name": name, "type": "STATIC", "load_assignment": load}

    envoy = "type.googleapis.com/envoy.extensions.filters"
    weighted = [{"name": name, "weight": 50} for name in clusters if "mirror" not in name]
    mirrors = [{"cluster": name} for name in clusters if "mirror" in name]
    action = {"weighted_clusters": {"clusters": weighted}, "request_mirror_policies": mirrors}
    hosts = {"name": "h", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": action}]}
    router = {"@type": f"{envoy}.http.router.v3.Router"}
    manager = {
        "@type": f"{envoy}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "http-10080",
        "route_config": {"name": "r", "virtual_hosts": [hosts]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": router}],
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    listener = {"name": "l", "address": address(users), "filter_chains": [{"filters": filters}]}
    resources = {
        "listeners": [listener],
        "clusters": [cluster(name, port) for name, port in clusters.items()],
    }
    document = {"admin": {"address": address(admin)}, "static_resources": resources,
                "stats_flush_interval": "0.2s"}  # fmt: skip
    path = folder / "envoy.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


@contextmanager
def envoys(
    folder: Path, ports: dict[str, int], clusters: dict[str, int]
) -> Iterator[tuple[Prometheus, httpx.Client]]:
    """A real Envoy with these clusters, scraped: the preset's source, and a client of its users."""
    admin, users = free_port(), free_port()
    program = str(Path(sys.executable).with_name("envoy"))
    watching, proxy = folder / "watching", folder / "proxy"
    watching.mkdir(), proxy.mkdir()
    config = gateway(proxy, admin, users, clusters)
    command = [program, "-c", str(config), "--use-dynamic-base-id", "--concurrency", "1"]
    with (
        running(command, proxy),
        server(watching, ports, envoy=admin) as url,
        httpx.Client(base_url=f"http://127.0.0.1:{users}") as client,
    ):
        preset = Metrics(source="envoy-gateway")
        yield Prometheus(url, "flight-delay", "production", preset), client


def arms(source: Prometheus, since: float) -> tuple[Arm, Arm]:
    seen = source.counts(BOTH, since)
    assert seen.stable and seen.candidate
    return seen.stable, seen.candidate


def test_envoy_gateways_own_counts(
    tmp_path: Path, pods: dict[str, Pod], ports: dict[str, int]
) -> None:
    """A real Envoy with Envoy Gateway's names: users' requests, mirrored ones, an outage. Latency
    and scores are the servers' to tell."""
    with backend(200) as good, backend(503) as bad:
        clusters = {f"{RULE}/backend/0": good, f"{RULE}/backend/1": bad, f"{RULE}-mirror-0": good}
        with envoys(tmp_path, ports, clusters) as (source, client):
            since = time.time()
            until(lambda: bool(arms(source, since)[1].scores))
            before = arms(source, since)[1]
            pods["2"].score(0.1, 0.9)
            pods["2"].answer(3, 200, 0.05)
            answers = [client.post("/predict").status_code for _ in range(40)]
            failed = answers.count(503)
            assert 0 < failed < 40
            until(lambda: [a.requests for a in arms(source, since)] == [40 - failed, 40 + failed])
            stable, candidate = arms(source, since)
            assert (stable.failures, candidate.failures) == (0, failed)

            def added(name: str) -> int:
                now = arms(source, since)[1]
                return sum(getattr(now, name).values()) - sum(getattr(before, name).values())

            until(lambda: (added("latency"), added("scores")) == (3, 2))
            assert set(candidate.latency) == {10.0, 100.0, 1000.0, float("inf")}


def test_a_request_that_no_server_answers_is_a_failure(
    tmp_path: Path, pods: dict[str, Pod], ports: dict[str, int]
) -> None:
    """A pod of the candidate has died: users get the Envoy's own 503, which no server counts."""
    with backend(200) as good:
        clusters = {f"{RULE}/backend/0": good, f"{RULE}/backend/1": free_port()}
        with envoys(tmp_path, ports, clusters) as (source, client):
            since = time.time()
            until(lambda: arms(source, since)[1].requests == 0)
            latencies = sum(arms(source, since)[1].latency.values())
            answers = [client.post("/predict").status_code for _ in range(40)]
            failed = answers.count(503)
            assert failed and set(answers) == {200, 503}
            until(lambda: arms(source, since)[1].failures == failed)
            stable, candidate = arms(source, since)
            assert (stable.requests, stable.failures) == (40 - failed, 0)
            assert candidate.requests == failed
            assert sum(candidate.latency.values()) == latencies


def test_both_counters_begin_an_epoch_and_are_needed(
    tmp_path: Path, pods: dict[str, Pod], ports: dict[str, int]
) -> None:
    with backend(200) as good:
        clusters = {f"{RULE}/backend/{n}": good for n in (0, 1)}
        with envoys(tmp_path, ports, clusters) as (source, client):
            since = time.time()
            pods["2"].answer(5, 200, 0.01)
            until(lambda: sum(arms(source, since)[1].latency.values()) > 0)
            assert source.up(2) == [True] and source.up(3) == []
            epoch = source.counts(BOTH, since).epoch
            pods["2"].stop()  # its container restarts: latencies begin anew, failures do not
            until(lambda: source.up(2) == [False])
            # Its users' failures are the Envoy's to tell meanwhile: they count.
            assert source.counts(BOTH, since).epoch == epoch
            pods["2"] = Pod(ports["2"])
            pods["2"].answer(1, 200, 0.01)
            until(lambda: source.counts(BOTH, since).epoch != epoch)

            assert source.knows_routes(["other", "flight-delay"])
            assert not source.knows_routes(["flight", "flight-delay-probe"])
            other = Prometheus(
                source._url, "other-model", "production", Metrics(source="envoy-gateway")
            )
            with pytest.raises(ConnectionError, match="all that counts version 2"):
                other.counts(Routes(stable=2), since)
            unscraped = Prometheus(
                source._url, "flight-delay", "production", Metrics(source="envoy-gateway")
            )
            with pytest.raises(ConnectionError, match="all that counts version 3"):
                unscraped.counts(Routes(stable=3), since)  # the Envoy's alone are not enough


def test_queries_of_ones_own(url: str, pods: dict[str, Pod]) -> None:
    own = Metrics(
        requests="sum by (http_response_code) (bentoml_service_request_total{"
        'app_kubernetes_io_version="$version",endpoint="/v2"})',
        scores="sum by (le) (modelyard_request_score_bucket{"
        'app_kubernetes_io_version="$version"} * 2)',
    )
    source = Prometheus(url, "flight-delay", "production", own)
    pods["1"].answer(3, 200, 0.01, path="/v2")
    pods["1"].answer(2, 500, 0.01, path="/v2")
    pods["1"].score(0.3)

    def stable() -> Arm:
        arm = source.counts(BOTH, time.time()).stable
        assert arm is not None
        return arm

    until(lambda: (stable().requests, stable().failures, stable().scores.get(0.5)) == (5, 2, 2))


@pytest.mark.parametrize(
    ("metrics", "problem"),
    [
        ({"requests": "sum(up) * NaN"}, "must give one label, the status code"),
        ({"requests": "sum by (job) (up) * NaN"}, "gives nan"),
        ({"requests": "sum by (job, instance) (up)"}, "must give one label"),
        ({"requests": "42"}, "gives a scalar; a vector is wanted"),
        ({"requests": "sum by (job"}, "refuses"),
        ({"latency": "sum by (job) (up)"}, "must give `le` and no more"),
        ({"latency": 'label_replace(up, "le", "1", "", "")'}, "must give cumulative counts"),
        ({"resets": "sum(up) / 0"}, "gives inf"),
        ({"age": "up"}, "gives 2 elements, not 1"),
        ({"age": "up > 1"}, "gives 0 elements, not 1"),
        ({"age": "vector(NaN)"}, "gives nan"),
    ],
)
def test_what_a_query_must_not_give(
    url: str, pods: dict[str, Pod], metrics: dict[str, str], problem: str
) -> None:
    source = Prometheus(url, "flight-delay", "production", Metrics.model_validate(metrics))
    with pytest.raises(ConnectionError, match=problem):
        source.counts(BOTH, time.time())


def test_an_old_answer_is_as_old_as_it_is(url: str, pods: dict[str, Pod]) -> None:
    """The controller holds `time` against the policy's interval: stale counts never advance."""
    source, now = (
        Prometheus(url, "flight-delay", "production", Metrics(age="vector(300)")),
        time.time(),
    )
    assert now - source.counts(BOTH, now).time > 290


def test_scores_of_two_versions_have_the_same_edges() -> None:
    inf = float("inf")
    arms = {1: Arm(scores={1: 5, 2: 6, 4: 7, inf: 1}), 2: Arm(scores={2: 1, 3: 2, 4: 3, inf: 4})}
    same_edges(arms)
    assert arms[1].scores == {2: 11, 4: 7, inf: 1}
    assert arms[2].scores == {2: 1, 4: 5, inf: 4}


def test_a_version_that_is_not_scraped_is_no_evidence(url: str, pods: dict[str, Pod]) -> None:
    source = Prometheus(url, "flight-delay", "production")
    with pytest.raises(ConnectionError, match="does not scrape all that counts version 3"):
        source.counts(Routes(stable=3), time.time())


def test_a_pod_that_does_not_answer_its_scrape_is_no_evidence(
    pods: dict[str, Pod], ports: dict[str, int], tmp_path: Path
) -> None:
    with server(tmp_path, ports, silent="2") as url:
        source = Prometheus(url, "flight-delay", "production")
        until(lambda: _counted(source, Routes(stable=1)))
        with pytest.raises(ConnectionError, match="does not scrape all that counts version 2"):
            source.counts(BOTH, time.time())


def _counted(source: Prometheus, routes: Routes) -> bool:
    try:
        return source.counts(routes, time.time()).stable is not None
    except ConnectionError:
        return False


def test_a_query_that_is_refused(url: str) -> None:
    source = Prometheus(url, 'flight"delay', "production")
    with pytest.raises(ConnectionError, match="refuses"):
        source.counts(BOTH, time.time())


def test_no_prometheus_there() -> None:
    source = Prometheus(f"http://127.0.0.1:{free_port()}", "flight-delay", "production")
    with pytest.raises(ConnectionError, match="does not answer"):
        source.counts(BOTH, time.time())


@pytest.mark.parametrize("value", ["NaN", "+Inf"])
def test_no_number_is_no_evidence(value: str) -> None:
    with pytest.raises(ConnectionError, match="gives"):
        number({"metric": {}, "value": [0, value]})
