"""Three times as many requests as can be answered."""

import sys
from pathlib import Path

from benchmarks.serving.load import Answer, h2load, p99, wrk
from benchmarks.serving.servers import Running

FACTOR = 3
MANY = 256
"""connections that the requests are spread over"""
STORM = 400
"""connections that ask again at once, each: the worst that clients can do"""


def overload(server: Running, body: tuple[str, Path], seconds: int) -> dict[str, float]:
    """p99 in ms: `before` (at half of the capacity), of what is `accepted` and `refused` during
    the overload, and `after` (half again, from one second after it); how many answers were
    neither 200 nor 503 (`other`), and what was `offered` over the capacity."""
    wrk(server, body, 1)
    capacity = wrk(server, body, 5).rate
    before = h2load(server, body, 5, MANY, capacity / 2)
    during = h2load(server, body, seconds, MANY, capacity * FACTOR)
    after = h2load(server, body, 6, MANY, capacity / 2)
    end = max(answer.start_s for answer in during)
    after = [answer for answer in after if answer.start_s > end + 1]
    every = [*before, *during, *after]
    length = end - min(answer.start_s for answer in during)
    return {
        "before": _p99(before, 200),
        "accepted": _p99(during, 200),
        "refused": _p99(during, 503),
        "after": _p99(after, 200),
        "other": sum(answer.status not in (200, 503) for answer in every),
        "refused_unloaded": sum(answer.status != 200 for answer in (*before, *after)),
        "offered": len(during) / length / capacity,
        "accepted_share": sum(a.status == 200 for a in during) / length / capacity,
    }


def storm(server: Running, body: tuple[str, Path], seconds: int) -> dict[str, float]:
    """p99 in ms of what is `accepted` and `refused`, and the `rate` of all answers."""
    answers = h2load(server, body, seconds, STORM)
    return {
        "accepted": _p99(answers, 200),
        "refused": _p99(answers, 503),
        "rate": len(answers) / seconds,
    }


def _p99(answers: list[Answer], status: int) -> float:
    found = [answer.ms for answer in answers if answer.status == status]
    if not found:
        print(f"no answer was {status}", file=sys.stderr)
    return p99(found)
