"""Evidence from a real Prometheus that scrapes real exporters, one a version."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from wsgiref.simple_server import WSGIServer

import httpx
import pytest
import yaml
from prometheus_client import CollectorRegistry, Counter, Histogram, start_http_server

from modelyard.delivery.ports import Counts, Routes
from modelyard.delivery.prometheus import Prometheus, number

BINARY = shutil.which("prometheus")
pytestmark = [
    pytest.mark.skipif(BINARY is None, reason="no prometheus here (apt-get install prometheus)"),
    pytest.mark.xdist_group("prometheus"),
]
BOTH = Routes(stable=1, candidate=2, weight=25)


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


class Pod:
    """What BentoML exports, from this process."""

    def __init__(self, port: int) -> None:
        labels = ["endpoint", "service_name", "service_version", "http_response_code"]
        registry = CollectorRegistry()
        self._requests = Counter("bentoml_service_request", "", labels, registry=registry)
        self._duration = Histogram(
            "bentoml_service_request_duration_seconds",
            "",
            labels,
            registry=registry,
            buckets=(0.01, 0.1, 1),
        )
        self._server: WSGIServer
        self._thread: Thread
        self._server, self._thread = start_http_server(port, "127.0.0.1", registry)

    def answer(self, count: int, code: int, seconds: float, path: str = "/predict") -> None:
        for metric in (self._requests, self._duration):
            metric.labels(path, "flight-delay", "1", code)
        self._requests.labels(path, "flight-delay", "1", code).inc(count)
        for _ in range(count):
            self._duration.labels(path, "flight-delay", "1", code).observe(seconds)

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def ports() -> dict[str, int]:
    return {"1": free_port(), "2": free_port()}


@pytest.fixture
def pods(ports: dict[str, int]) -> Iterator[dict[str, Pod]]:
    made = {version: Pod(port) for version, port in ports.items()}
    yield made
    for pod in made.values():
        pod.stop()


@pytest.fixture
def url(tmp_path: Path, ports: dict[str, int]) -> Iterator[str]:
    with server(tmp_path, ports) as address:
        yield address


@contextmanager
def server(folder: Path, ports: dict[str, int], interval: str = "200ms") -> Iterator[str]:
    """A Prometheus that labels what it scrapes as the PodMonitor makes it do; its URL."""
    common = {"namespace": "production", "app_kubernetes_io_name": "flight-delay"}
    scraped = [
        {
            "targets": [f"127.0.0.1:{port}"],
            "labels": common | {"app_kubernetes_io_version": version},
        }
        for version, port in ports.items()
    ]
    job = {"job_name": "pods", "honor_labels": True, "static_configs": scraped}
    config = folder / "prometheus.yml"
    seconds = {"scrape_interval": interval, "scrape_timeout": "200ms"}
    config.write_text(yaml.safe_dump({"global": seconds, "scrape_configs": [job]}))
    address = f"127.0.0.1:{free_port()}"
    arguments = [
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
    ]
    with running([str(BINARY), *arguments], folder):
        until(lambda: httpx.get(f"http://{address}/-/ready").status_code == 200)
        yield f"http://{address}"


@contextmanager
def running(command: list[str], folder: Path, **environment: str) -> Iterator[None]:
    """A program and its children, ended at the end."""
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)


def until(condition: Callable[[], bool]) -> None:
    """Wait for what takes a scrape or two."""
    end = time.monotonic() + 30
    while True:
        try:
            if condition():
                return
        except (httpx.HTTPError, ConnectionError):
            pass
        assert time.monotonic() < end
        time.sleep(0.1)


def test_counts(pods: dict[str, Pod], ports: dict[str, int], url: str) -> None:
    source, since = Prometheus(url, "flight-delay", "production"), time.time()

    def counts() -> Counts:
        return source.counts(BOTH, since)

    until(lambda: counts().candidate is not None)
    quiet = counts()
    assert quiet.stable and quiet.candidate
    assert quiet.stable.requests == quiet.candidate.requests == 0  # up, and not asked yet

    pods["1"].answer(30, 200, 0.005)
    pods["2"].answer(8, 200, 0.05)
    pods["2"].answer(2, 500, 2)
    pods["2"].answer(5, 200, 0.001, path="/readyz")  # no user's request
    until(lambda: (arm := counts().candidate) is not None and arm.requests == 10)
    until(lambda: (arm := counts().stable) is not None and arm.requests == 30)
    seen = counts()
    assert seen.stable and seen.stable.failures == 0
    assert seen.stable.latency == {10.0: 30, 100.0: 0, 1000.0: 0, float("inf"): 0}
    assert seen.candidate and seen.candidate.failures == 2
    assert seen.candidate.latency == {10.0: 0, 100.0: 8, 1000.0: 0, float("inf"): 2}
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
            return "scrapes no pod of version 2" in str(error)
        return False

    until(gone)
    pods["2"] = Pod(ports["2"])


def test_counts_are_as_old_as_the_last_scrape(
    pods: dict[str, Pod], ports: dict[str, int], tmp_path: Path
) -> None:
    with server(tmp_path, ports, interval="4s") as url:
        source, since = Prometheus(url, "flight-delay", "production"), time.time()
        until(lambda: time.time() - source.counts(BOTH, since).time > 2)


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


def test_a_version_that_is_not_scraped_is_no_evidence(url: str, pods: dict[str, Pod]) -> None:
    source = Prometheus(url, "flight-delay", "production")
    with pytest.raises(ConnectionError, match="scrapes no pod of version 3"):
        source.counts(Routes(stable=3), time.time())


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
