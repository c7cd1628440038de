"""wrk, and a probe that looks at single answers while wrk overloads."""

import os
import re
import shutil
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks.serving.servers import Running

SCRIPT = Path(__file__).with_name("post.lua")
CONNECTIONS = 16
MANY = 400
"""connections of an overload, each of which asks again at once: beyond what may wait"""
_MS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}


@dataclass(frozen=True)
class Measured:
    rate: float
    """requests a second"""
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    """of all of the server's processes, a request"""


def wrk(
    server: Running, body: tuple[str, Path], seconds: int, connections: int = CONNECTIONS
) -> Measured:
    """
    Raises:
        SystemExit: wrk is missing, or an answer was not 2xx and `connections` are not many.
    """
    before = server.cpu_s()
    printed = _run(server, body, seconds, connections)
    cpu_s = server.cpu_s() - before
    if connections == CONNECTIONS and ("Non-2xx" in printed or "Socket errors" in printed):
        sys.exit(f"{server.name}: wrk saw failures:\n{printed}")
    count = int(_find(r"(\d+) requests in", printed))
    return Measured(
        rate=float(_find(r"Requests/sec:\s+([\d.]+)", printed)),
        p50_ms=_ms(_find(r"\n\s+50%\s+(\S+)", printed)),
        p99_ms=_ms(_find(r"\n\s+99%\s+(\S+)", printed)),
        cpu_ms=1e3 * cpu_s / max(count, 1),
    )


def overload(server: Running, body: tuple[str, Path], seconds: int) -> dict[str, float]:
    """p99 in ms, as a client on a connection of its own sees it: `before` (under 16
    connections), `accepted` and `refused` during the overload, `after` (from one second after
    it, under 16 again); and how many answers were neither 200 nor 503."""
    headers, content = {"content-type": body[0]}, body[1].read_bytes()
    answers: dict[str, list[tuple[int, float]]] = {"before": [], "during": [], "after": []}
    for phase, connections, length in (
        ("before", CONNECTIONS, 5),
        ("during", MANY, seconds),
        ("after", CONNECTIONS, 5),
    ):
        load = threading.Thread(target=_run, args=(server, body, length, connections))
        with httpx.Client(timeout=30, trust_env=False) as client:
            client.get(f"{server.url}/livez")  # connected before the load is there
            load.start()
            if phase == "after":
                time.sleep(1)
            while load.is_alive():
                start = time.perf_counter()
                answer = client.post(f"{server.url}/predict", content=content, headers=headers)
                took = 1e3 * (time.perf_counter() - start)
                answers[phase].append((answer.status_code, took))
        load.join()
    every = [code for phase in answers.values() for code, _ in phase]
    return {
        "before": _p99([ms for _, ms in answers["before"]]),
        "accepted": _p99([ms for code, ms in answers["during"] if code == 200]),
        "refused": _p99([ms for code, ms in answers["during"] if code == 503]),
        "after": _p99([ms for _, ms in answers["after"]]),
        "other": sum(code not in (200, 503) for code in every),
    }


def _run(server: Running, body: tuple[str, Path], seconds: int, connections: int) -> str:
    if not shutil.which("wrk"):
        sys.exit("wrk is missing: apt-get install wrk")
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", SCRIPT]
    done = subprocess.run(
        [*command, f"{server.url}/predict"],
        env={**os.environ, "KIND": body[0], "BODY": str(body[1])},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def _p99(values: list[float]) -> float:
    if len(values) < 2:
        return values[0] if values else 0.0
    return statistics.quantiles(values, n=100)[98]


def _find(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    if not found:
        sys.exit(f"wrk printed no {pattern}:\n{text}")
    return found[1]


def _ms(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text).groups()  # pyrefly: ignore
    return float(number) * _MS[unit]
