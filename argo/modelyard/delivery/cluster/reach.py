"""Do users get through the Gateway to a version, and Prometheus to its pods?

Servers that are ready say nothing of what lies between: NetworkPolicies, the Gateway's listeners,
the labels that Prometheus' operator selects by. So one request goes the way of the users', by a
route that only its token opens, and Prometheus is asked for `up`. What is found is told as one
sentence that names the object in the way and the setting of argo/release.yaml that mends it.
"""

import secrets
import ssl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from modelyard.delivery.cluster.client import Cluster
from modelyard.delivery.cluster.prometheus import Prometheus
from modelyard.delivery.cluster.router import route_problem
from modelyard.delivery.manifests import objects
from modelyard.delivery.manifests.objects import PROBE_HEADER, PROBE_PATH, Manifest, Target
from modelyard.delivery.policy import RELEASE_FILE, Kubernetes
from modelyard.documents import UserError
from modelyard.documents.http import VERSION_HEADER

if TYPE_CHECKING:
    import httpx

_GATEWAY = ("gateway.networking.k8s.io/v1", "Gateway")
_TIMEOUT_S = 5.0
_PORTS = {"http": 80, "https": 443}
# OpenSSL's: self-signed, or signed by somebody who is not known here.
_UNKNOWN_ISSUER = {18, 19, 20, 21}


class GatewayReach:
    """Reach: an HTTPRoute beside the users', for a request of the release's own; and `up`."""

    def __init__(
        self, cluster: Cluster, target: Target, source: Prometheus, environment: Kubernetes
    ) -> None:
        self._cluster, self._target, self._source = cluster, target, source
        self._probes, self._metrics = environment.probe, environment.metrics
        self._token = secrets.token_hex(16)
        self._route: Manifest | None = None
        """as it was made by this process"""
        self._ended = False
        self._reached: set[int] = set()
        """versions that a request got through to"""

    def problem(self, version: int) -> str:
        if self._probes and version not in self._reached:
            if problem := self._probe(version):
                return problem
            self._reached.add(version)
        return self._unscraped(version)

    def end(self) -> None:
        """Also what a controller that died has left."""
        if not self._ended:
            self._cluster.delete(objects.probe_route(self._target, 0, ""))
            self._route, self._ended = None, True

    def _probe(self, version: int) -> str:
        found = self._addresses()
        if isinstance(found, str):
            return found
        wanted = objects.probe_route(self._target, version, self._token)
        if self._route != wanted:
            self._ended = False
            self._cluster.apply(wanted, force=True)
            self._route = wanted
        present = self._cluster.get((wanted["apiVersion"], wanted["kind"]), self._target.probe)
        if problem := route_problem(present):
            return (
                f"HTTPRoute {self._target.probe}, by which the release tries whether users get "
                f"through, is not live: {problem}; does Gateway {self._target.gateway} let in "
                f"routes of namespace {self._target.namespace} and host {self._target.host}?"
            )
        tried = [answer(url, self._target.host, self._token) for url in found]
        problems = [unreached(self._target, version, each) for each in tried]
        return "" if "" in problems else "; ".join(dict.fromkeys(problems))

    def _addresses(self) -> list[str] | str:
        """URLs of the Gateway, any of which will do; or what is in the way of knowing one."""
        if self._target.gateway_url:
            return [self._target.gateway_url]
        namespace, name = self._target.gateway.split("/")
        try:
            gateway = self._cluster.get(_GATEWAY, name, namespace)
        except UserError as error:
            return (
                f"{error}; releases may read Gateways where the administrator has applied the "
                "platform's shared objects of this version; without, set `gateway_url` in "
                f"{RELEASE_FILE}"
            )
        if gateway is None:
            return f"there is no Gateway {self._target.gateway}: set `gateway` in {RELEASE_FILE}"
        return gateway_urls(gateway, self._target) or (
            f"Gateway {self._target.gateway} has no address, or no listener for "
            f"{self._target.host} over HTTP or HTTPS that lets in namespace "
            f"{self._target.namespace}: see `kubectl -n {namespace} get gateway {name} -o yaml`; "
            f"where releases reach it by another address, set `gateway_url` in {RELEASE_FILE}"
        )

    def _unscraped(self, version: int) -> str:
        """What keeps Prometheus from counting. Where queries are a team's own, it knows."""
        try:
            up = self._source.up(version) if self._metrics.age is None else [True]
            envoys = self._metrics.source == "envoy-gateway" and self._metrics.requests is None
            names = (self._target.model, self._target.probe)
            counted = not (envoys and self._probes) or self._source.knows_routes(names)
        except ConnectionError as error:
            return (
                f"{error}; is that the URL of Prometheus (`prometheus` in {RELEASE_FILE}), and may "
                f"pods of namespace {self._target.namespace} call it?"
            )
        return unscraped(self._target, version, up, counted)


@dataclass(frozen=True)
class Answer:
    """What became of a request to the Gateway."""

    url: str
    status: int | None = None
    """None: there was no answer"""
    version: str | None = None
    """of the model, as its server says"""
    detail: str = ""
    connected: bool = True
    trusted: bool = True
    """False: the certificate is not one of the host's that is valid now"""


def answer(url: str, host: str, token: str) -> Answer:
    """Ask for a model's description at a Gateway's address, in the name of a host."""
    import httpx

    headers = {"host": host, PROBE_HEADER: token, "connection": "close"}
    try:
        with _client(url, host) as client:
            sent = client.get(url + PROBE_PATH, headers=headers, extensions={"sni_hostname": host})
    except ssl.SSLCertVerificationError as error:
        return Answer(url, detail=error.verify_message, trusted=False)
    except (httpx.ConnectError, httpx.ConnectTimeout, OSError) as error:
        return Answer(url, detail=_told(error), connected=False)
    except httpx.HTTPError as error:
        return Answer(url, detail=_told(error))
    version = sent.headers.get(VERSION_HEADER)
    return Answer(url, sent.status_code, version, " ".join(sent.text.split())[:120])


@contextmanager
def _client(url: str, host: str) -> "Iterator[httpx.Client]":
    import httpx

    trust = _trust(url, host) if url.startswith("https:") else True
    with httpx.Client(timeout=_TIMEOUT_S, verify=trust, trust_env=False) as client:
        yield client


def _trust(url: str, host: str) -> ssl.SSLContext:
    """By which the Gateway's certificate has to be one of the host's, and to be valid now.

    Whom the users trust is not known here, so a certificate of an issuer that is not known is
    said, and then held against itself: its names and dates count all the same.

    Raises:
        ssl.SSLCertVerificationError: it is another's, or is not valid now.
        OSError: nothing there speaks TLS.
    """
    usual = ssl.create_default_context()
    try:
        _certificate(url, host, usual)
        return usual
    except ssl.SSLCertVerificationError as error:
        if error.verify_code not in _UNKNOWN_ISSUER:
            raise
        print(
            f"the certificate at {url} is of an issuer that this image does not know "
            f"({error.verify_message}); only its names and dates are checked",
            file=sys.stderr,
        )
    unchecked = ssl.create_default_context()
    unchecked.check_hostname, unchecked.verify_mode = False, ssl.CERT_NONE
    pinned = ssl.create_default_context(
        cadata=ssl.DER_cert_to_PEM_cert(_certificate(url, host, unchecked))
    )
    pinned.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    _certificate(url, host, pinned)
    return pinned


def _certificate(url: str, host: str, context: ssl.SSLContext) -> bytes:
    """That a server shows to whoever asks for a host, DER."""
    import socket

    parts = urlsplit(url)
    place = (parts.hostname or "", parts.port or _PORTS["https"])
    with (
        socket.create_connection(place, _TIMEOUT_S) as connection,
        context.wrap_socket(connection, server_hostname=host) as secured,
    ):
        return secured.getpeercert(binary_form=True) or b""


def _told(error: Exception) -> str:
    return str(error) or type(error).__name__


def unreached(target: Target, version: int, seen: Answer) -> str:
    """What an answer says is between users and a version; empty: nothing."""
    at, gateway = f"at {seen.url}", f"Gateway {target.gateway}"
    if seen.status == 200 and seen.version == str(version):
        return ""
    if not seen.trusted:
        return (
            f"the certificate that {gateway} shows {at} is none for {target.host} that is valid "
            f"now ({seen.detail}): users would refuse it, too"
        )
    if not seen.connected:
        return (
            f"{gateway} does not answer {at} ({seen.detail}): may pods of namespace "
            f"{target.namespace} connect to it? Where releases reach it by another address, set "
            f"`gateway_url` in {RELEASE_FILE}"
        )
    if seen.version is not None:
        return f"version {seen.version} answers {seen.status} {at}, not version {version} 200"
    if seen.status is None or seen.status in (502, 503, 504):
        what = f"{seen.status}: {seen.detail}" if seen.status else seen.detail
        return (
            f"{gateway} gets no answer from the pods of version {version}, which are ready "
            f"({what}): NetworkPolicy {target.model} lets in {_listed(target.proxies)} as the "
            "Gateway's proxies: do they run there? If not, set `proxies` in "
            f"{RELEASE_FILE}, render and apply"
        )
    if seen.status == 404:
        return (
            f"{gateway} answers 404 {at} for host {target.host}: has it a listener there that "
            "takes this host, and does no other route take it?"
        )
    return (
        f"{gateway} answers {seen.status} {at} itself, instead of version {version}: where it "
        f"asks for what a release can't have, set `probe: false` in {RELEASE_FILE}"
    )


def unscraped(target: Target, version: int, up: list[bool], routes_known: bool) -> str:
    """What Prometheus' answers say is between it and a version; empty: nothing."""
    if not up:
        labels = ", ".join(f"{key}: {value}" for key, value in target.monitor_labels.items())
        return (
            f"Prometheus at {target.prometheus} has not found a pod of version {version}: "
            f"PodMonitor {target.model} of namespace {target.namespace} has the labels "
            f"{{{labels}}}. One that was applied just now takes up to five minutes; else, does its "
            f"operator select by other labels, or not in this namespace? Set `monitor_labels` in "
            f"{RELEASE_FILE}, render and apply"
        )
    if not all(up):
        return (
            f"Prometheus at {target.prometheus} can't scrape {up.count(False)} of {len(up)} pods "
            f"of version {version}: NetworkPolicy {target.model} lets in "
            f"{_listed(target.scrapers)} as Prometheus: does it run there? If not, set "
            f"`scrapers` in {RELEASE_FILE}, render and apply"
        )
    if not routes_known:
        return (
            f"Prometheus at {target.prometheus} has no counts of this model from the Gateway's "
            "Envoys: a PodMonitor for them is the administrator's to apply; without, set "
            f"`metrics: {{source: servers}}` in {RELEASE_FILE}"
        )
    return ""


def gateway_urls(gateway: Manifest, target: Target) -> list[str]:
    """Where a Gateway takes requests for the target's host from its namespace, HTTP first."""
    addresses = [a["value"] for a in (gateway.get("status") or {}).get("addresses") or []]
    listeners = [each for each in gateway["spec"]["listeners"] if _takes(each, gateway, target)]
    ordered = sorted(listeners, key=lambda each: each["protocol"])
    return [
        f"{each['protocol'].lower()}://{f'[{a}]' if ':' in a else a}:{each['port']}"
        for a in addresses[:1]
        for each in ordered
    ]


def _takes(listener: dict[str, Any], gateway: Manifest, target: Target) -> bool:
    """Whether a listener is for the host. A selector of namespaces is not known to fail."""
    allowed = (listener.get("allowedRoutes") or {}).get("namespaces") or {}
    own = gateway["metadata"]["namespace"] == target.namespace
    name = listener.get("hostname") or target.host
    fits = target.host.endswith(name[1:]) if name.startswith("*.") else name == target.host
    return (
        listener["protocol"] in ("HTTP", "HTTPS")
        and fits
        and (own or allowed.get("from", "Same") in ("All", "Selector"))
    )


def _listed(peers: tuple[str, ...]) -> str:
    return f"[{', '.join(peers)}]"
