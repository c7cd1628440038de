"""Load: wrk, whose connections ask again at once, and h2load, which keeps a rate."""

import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serving.servers import Running

SCRIPT = Path(__file__).with_name("post.lua")
CONNECTIONS = 16
STEP = 4
"""connections that h2load begins together"""
_MS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}


@dataclass(frozen=True)
class Measured:
    rate: float
    """requests a second"""
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    """of all of the server's processes, a request"""


def wrk(server: Running, body: tuple[str, Path], seconds: int) -> Measured:
    """
    Raises:
        SystemExit: wrk is missing, or an answer was not 2xx.
    """
    before = server.cpu_s()
    printed = _run(server, body, seconds)
    cpu_s = server.cpu_s() - before
    if "Non-2xx" in printed or "Socket errors" in printed:
        sys.exit(f"{server.name}: wrk saw failures:\n{printed}")
    count = int(_find(r"(\d+) requests in", printed))
    return Measured(
        rate=float(_find(r"Requests/sec:\s+([\d.]+)", printed)),
        p50_ms=_ms(_find(r"\n\s+50%\s+(\S+)", printed)),
        p99_ms=_ms(_find(r"\n\s+99%\s+(\S+)", printed)),
        cpu_ms=1e3 * cpu_s / max(count, 1),
    )


def press(server: Running, body: tuple[str, Path], seconds: int) -> None:
    """The load alone; the server may fail it."""
    _run(server, body, seconds)


@dataclass(frozen=True)
class Answer:
    start_s: float
    """since the epoch"""
    status: int
    ms: float


def h2load(
    server: Running, body: tuple[str, Path], seconds: int, connections: int, rate: float = 0
) -> list[Answer]:
    """Each answer to a body that is sent `rate` times a second, whatever the server does.

    Connections begin one after the other, so that the requests are spread evenly. Without a
    rate, each connection asks again at once.

    Raises:
        SystemExit: h2load is missing, or failed.
    """
    if not shutil.which("h2load"):
        sys.exit("h2load is missing: apt-get install nghttp2-client")
    options = [f"--duration={seconds}"]
    if rate:
        each = rate / connections
        step_ms = max(1, round(1e3 * STEP / rate))
        options = [f"--requests={int(each * seconds) * connections}", f"--rps={each:.3f}",
                   f"--rate={STEP}", f"--rate-period={step_ms}ms"]  # fmt: skip
    with tempfile.NamedTemporaryFile() as log:
        command = ["h2load", "--h1", "--threads=1", f"--clients={connections}", *options,
                   f"--data={body[1]}", f"--header=content-type: {body[0]}",
                   f"--log-file={log.name}", f"{server.url}/predict"]  # fmt: skip
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        rows = (map(int, line.split()) for line in log)
        return [Answer(start / 1e6, status, took / 1e3) for start, status, took in rows]


def p99(values: list[float]) -> float:
    if len(values) < 2:
        return values[0] if values else 0.0
    return statistics.quantiles(values, n=100)[98]


def _run(server: Running, body: tuple[str, Path], seconds: int) -> str:
    if not shutil.which("wrk"):
        sys.exit("wrk is missing: apt-get install wrk")
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency", "-s", SCRIPT]
    done = subprocess.run(
        [*command, f"{server.url}/predict"],
        env={**os.environ, "KIND": body[0], "BODY": str(body[1])},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def _find(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    if not found:
        sys.exit(f"wrk printed no {pattern}:\n{text}")
    return found[1]


def _ms(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text).groups()  # pyrefly: ignore
    return float(number) * _MS[unit]
