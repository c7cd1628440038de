"""Recorded rows as live traffic, and a probe that watches stable: what users would see."""

import asyncio
import itertools
import json
import math
import threading
import time
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from typing import Any

import httpx

from modelyard.delivery.evidence.looks import Users
from modelyard.delivery.local.envoy.xds import ARM_HEADER
from modelyard.documents import UserError
from modelyard.documents.http import MODEL_ROUTE, PREDICT_ROUTE

_MOST_ROWS = 20_000
_MOST_AT_ONCE = 200
_TIMEOUT_S = 15.0
_PROBE_EVERY_S = 0.1
_IDLE_S = 0.1


def read_traffic(argument: str) -> list[bytes]:
    """The request bodies of `--traffic replay:PATH`: one row each, every column an input.

    Raises:
        UserError: not such an argument, no such file, or no rows in it.
    """
    kind, _, name = argument.partition(":")
    if kind != "replay" or not name:
        raise UserError(f"--traffic {argument}: give replay:PATH, a Parquet or JSON-lines file")
    path = Path(name)
    if not path.is_file():
        raise UserError(f"--traffic {argument}: no such file")
    bodies = [body([row]) for row in _rows(path)]
    if not bodies:
        raise UserError(f"--traffic {argument}: no rows in it")
    return bodies


class Sender:
    """Sends bodies at a rate, over and over, until it is stopped (or its process ends).

    Open-loop: a slow server does not slow the requests down, up to 200 at once.
    """

    def __init__(
        self,
        url: str,
        bodies: list[bytes],
        rate: Callable[[], float],
        headers: Callable[[], dict[str, str]] = dict,
    ) -> None:
        """`rate` (requests a second, 0: none now) and `headers` are asked before each request."""
        self.url = url
        self._bodies = bodies
        self._rate = rate
        self._headers = headers
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self.requests = 0
        self.failures = 0

    def start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=lambda: asyncio.run(self._send()), daemon=True)
            self._thread.start()

    def stop(self, wait: bool = True) -> None:
        """Send no more, and wait for the answers that are due."""
        self._stopped.set()
        if wait and self._thread is not None:
            self._thread.join(_TIMEOUT_S + 5)

    async def _send(self) -> None:
        limits = httpx.Limits(max_connections=_MOST_AT_ONCE, max_keepalive_connections=50)
        headers = {"content-type": "application/json"}
        async with httpx.AsyncClient(limits=limits, timeout=_TIMEOUT_S, headers=headers) as client:
            due, under_way = time.monotonic(), set[asyncio.Task[None]]()
            bodies = itertools.cycle(self._bodies)
            while not self._stopped.is_set():
                rate = self._rate()
                if rate > 0 and len(under_way) < _MOST_AT_ONCE:
                    task = asyncio.create_task(self._request(client, next(bodies)))
                    under_way.add(task)
                    task.add_done_callback(under_way.discard)
                due = due + 1 / rate if rate > 0 else time.monotonic() + _IDLE_S
                await asyncio.sleep(max(0.0, due - time.monotonic()))
            await asyncio.gather(*under_way)

    async def _request(self, client: httpx.AsyncClient, body: bytes) -> None:
        failed = not await self.ask(client, body)
        self.requests += 1
        self.failures += failed

    async def ask(self, client: httpx.AsyncClient, body: bytes) -> bool:
        """Send one request; whether it was answered well."""
        try:
            reply = await client.post(
                f"{self.url}{PREDICT_ROUTE}", content=body, headers=self._headers()
            )
            return reply.is_success
        except httpx.HTTPError:
            return False


class Replay:
    """Users: recorded rows as live traffic at a steady rate, and the probe of stable."""

    def __init__(self, url: str, bodies: list[bytes], rate: float) -> None:
        self._sender = Sender(url, bodies, lambda: rate)
        self._probe = _Probe(url)

    def start(self) -> None:
        self._sender.start()
        self._probe.start()

    def stop(self) -> Users:
        """Send no more, wait for the answers that are due, and say what was seen."""
        self._sender.stop()
        self._probe.stop()
        return self.seen()

    def seen(self) -> Users:
        return Users(
            requests=self._sender.requests,
            failures=self._sender.failures,
            stable_downtime_s=round(self._probe.downtime_s, 2),
        )


class Watch:
    """Only the probe of stable, for releases under real traffic."""

    def __init__(self, url: str) -> None:
        self._probe = _Probe(url)

    def start(self) -> None:
        self._probe.start()

    def stop(self) -> Users:
        self._probe.stop()
        return self.seen()

    def seen(self) -> Users:
        return Users(stable_downtime_s=round(self._probe.downtime_s, 2))


class _Probe:
    """Asks stable for its metadata ten times a second, past the weights but through Envoy."""

    def __init__(self, url: str) -> None:
        self._url = url + MODEL_ROUTE
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self.downtime_s = 0.0

    def start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(5)

    def _run(self) -> None:
        down_since: float | None = None
        with httpx.Client(headers={ARM_HEADER: "stable"}, timeout=2.0) as client:
            while not self._stopped.wait(_PROBE_EVERY_S):
                asked = time.monotonic()
                try:
                    answers = client.get(self._url).is_success
                except httpx.HTTPError:
                    answers = False
                if not answers and down_since is None:
                    down_since = asked
                if down_since is not None:
                    now = time.monotonic()
                    self.downtime_s += now - down_since
                    down_since = None if answers else now


def _rows(path: Path) -> list[dict[str, Any]]:
    import polars as pl

    try:
        if path.suffix == ".parquet":
            return pl.scan_parquet(path).head(_MOST_ROWS).collect().to_dicts()
        with path.open() as file:
            rows = [json.loads(line) for line in itertools.islice(file, _MOST_ROWS) if line.strip()]
    except (pl.exceptions.PolarsError, OSError, ValueError) as error:
        what = str(error).splitlines()[0]
        raise UserError(
            f"{path}: neither Parquet (.parquet) nor JSON-lines that can be read: {what}"
        ) from None
    if not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}: every line must be one JSON object, an input a key")
    return rows


def body(rows: list[dict[str, Any]]) -> bytes:
    """A request of these rows; what is no number is missing."""
    told = [{name: _json(value) for name, value in row.items()} for row in rows]
    return json.dumps({"rows": told}).encode()


def _json(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value.isoformat() if isinstance(value, date | datetime) else value
