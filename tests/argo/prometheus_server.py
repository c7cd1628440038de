"""A real Prometheus, and what a version's pod exports to it."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any
from wsgiref.simple_server import WSGIServer

import httpx
import yaml
from prometheus_client import CollectorRegistry, Counter, Histogram, start_http_server

BINARY = shutil.which("prometheus")


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
        self._scores = Histogram(
            "modelyard_request_score", "", registry=registry, buckets=(0.25, 0.5, 1)
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

    def count(self, count: int, code: int) -> None:
        self._requests.labels("/predict", "flight-delay", "1", code).inc(count)

    def score(self, *scores: float) -> None:
        for score in scores:
            self._scores.observe(score)

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def server(
    folder: Path,
    ports: dict[str, int],
    interval: str = "200ms",
    envoy: int | None = None,
    silent: str | None = None,
) -> Iterator[str]:
    """A Prometheus that labels what it scrapes as the PodMonitor makes it do; its URL.

    `envoy` is the port of an Envoy's statistics, to be scraped, too; `silent` is a version
    with one more pod, which does not answer.
    """
    common = {"namespace": "production", "app_kubernetes_io_name": "flight-delay"}
    scraped = [
        {
            "targets": [f"127.0.0.1:{port}"],
            "labels": common | {"app_kubernetes_io_version": version},
        }
        for version, port in [*ports.items(), *([(silent, free_port())] if silent else [])]
    ]
    jobs: list[dict[str, Any]] = [
        {"job_name": "pods", "honor_labels": True, "static_configs": scraped}
    ]
    if envoy:
        proxies = [{"targets": [f"127.0.0.1:{envoy}"]}]
        jobs.append(
            {"job_name": "envoy", "metrics_path": "/stats/prometheus", "static_configs": proxies}
        )
    config = folder / "prometheus.yml"
    seconds = {"scrape_interval": interval, "scrape_timeout": "200ms"}
    config.write_text(yaml.safe_dump({"global": seconds, "scrape_configs": jobs}))
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
        process.terminate()  # as Kubernetes would: its children are its own to end
        try:
            process.wait(20)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


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
