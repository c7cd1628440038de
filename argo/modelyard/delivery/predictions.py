"""Stable's and the candidate's predictions for the same requests, from their prediction logs."""

import math
from collections import defaultdict
from pathlib import Path

import numpy as np

from modelyard.delivery.ports import Pairs
from modelyard.delivery.prediction_log import PredictionLog, Request

_Waiting = dict[str, list[Request]]
"""by request id"""


class Pairing:
    """Requests that both versions answered since the shadow began, row by row."""

    def __init__(self, stable: Path, candidate: Path, since: float) -> None:
        self.since = since
        self._logs = PredictionLog(stable, since), PredictionLog(candidate, since)
        self._waiting: tuple[_Waiting, _Waiting] = (defaultdict(list), defaultdict(list))
        self._stable: list[list[float]] = []
        self._distances: list[float] = []

    def pairs(self, tolerance: float) -> Pairs:
        """Pairs so far; `tolerance` in standard deviations of stable's own scores."""
        self._read()
        if not self._distances:
            return Pairs()
        finite = [s for s in self._stable if all(map(math.isfinite, s))]
        spread = math.sqrt(np.var(np.asarray(finite), axis=0).sum()) if finite else 0.0
        apart = np.asarray(self._distances) > tolerance * spread + 1e-9
        return Pairs(rows=len(apart), disagreements=int(apart.sum()))

    def _read(self) -> None:
        for arm, log in enumerate(self._logs):
            for one in log.requests():
                other = _take(self._waiting[1 - arm], one)
                if other is None:
                    self._waiting[arm][one.id].append(one)
                    continue
                stable, candidate = (one, other) if arm == 0 else (other, one)
                self._stable += stable.scores
                self._distances += map(_distance, stable.scores, candidate.scores)


def _take(waiting: _Waiting, one: Request) -> Request | None:
    """The first that waits for `one`, which then waits no more."""
    same = waiting.get(one.id, [])
    for place, other in enumerate(same):
        if other.asks_the_same(one):
            if len(same) == 1:
                del waiting[one.id]
            return same.pop(place)
    return None


def _distance(a: list[float], b: list[float]) -> float:
    """Euclidean; what can't be compared is infinitely far apart."""
    if len(a) != len(b) or not all(map(math.isfinite, [*a, *b])):
        return math.inf
    return math.dist(a, b)
