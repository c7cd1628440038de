"""A worker that is killed under load, and ten thousand malformed requests."""

import statistics
import threading
import time
from pathlib import Path

import httpx

from benchmarks.serving.load import press
from benchmarks.serving.malformed import send
from benchmarks.serving.servers import Running

KILLS = 3
WARM, MALFORMED = 3000, 10_000


def back_after_kill(server: Running, body: tuple[str, Path]) -> float:
    """Seconds from a kill -9 of the only worker, under load, to the next prediction; the median."""
    content, headers = body[1].read_bytes(), {"content-type": body[0]}
    seconds = []
    for _ in range(KILLS):
        load = threading.Thread(target=press, args=(server, body, 5))
        load.start()
        time.sleep(1)
        server.worker().kill()
        start = time.monotonic()
        while not _answers(server, content, headers):
            time.sleep(0.01)
        seconds.append(time.monotonic() - start)
        load.join()
    return statistics.median(seconds)


def malformed(server: Running, bodies: list[tuple[str, Path]]) -> tuple[int, float]:
    """How many answers were 5xx, and MiB by which the worker grew after the first few."""
    good = [(kind, path.read_bytes()) for kind, path in bodies]
    codes = send(server.url, good, range(WARM))
    before = server.worker().memory_info().rss
    codes += send(server.url, good, range(WARM, MALFORMED))
    grown = server.worker().memory_info().rss - before
    return sum(count for code, count in codes.items() if code >= 500), grown / 2**20


def _answers(server: Running, content: bytes, headers: dict[str, str]) -> bool:
    try:
        answer = httpx.post(
            f"{server.url}/predict", content=content, headers=headers, timeout=5, trust_env=False
        )
    except httpx.TransportError:
        return False
    return answer.status_code == 200
