"""What stable and the candidate predicted, from their prediction logs.

Under any traffic: a histogram of each version's scores. In shadow, where both get the same
requests: their answers, paired by request id and compared row by row.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np

from modelyard.delivery.evidence.counts import Disagreement, Pairs, Slice
from modelyard.delivery.local.prediction_log import PredictionLog, Request
from modelyard.delivery.local.reference import Reference, one_number
from modelyard.delivery.policy import Predictions
from modelyard.documents.prediction_log import sampled_row

SHADOW_ID = "modelyard-shadow-"
"""begins the id of a request that was sent into the shadow alone: paired, but no live score"""

_LARGEST = 10
_VALUES = 20
"""of an input that are slices of their own; the rest are one slice"""
_SAME = 1e-9

Side = Literal[0, 1]
"""stable, candidate"""


class Answers:
    """The logs of both versions since the shadow began; each line is read once."""

    def __init__(
        self,
        logs: tuple[PredictionLog, PredictionLog],
        reference: Reference,
        gate: Predictions | None,
    ) -> None:
        """`gate` None: nothing is paired."""
        self._logs = logs
        self._reference = reference
        self._pairing = Pairing(gate, reference.spread) if gate else None
        self._scores = [np.zeros(len(reference.edges), dtype=int) for _ in logs]

    def read(self) -> None:
        """Take in what was logged since the last call."""
        for side, log in enumerate(self._logs):
            requests = log.requests()
            live = (r for r in requests if not r.id.startswith(SHADOW_ID))
            self._scores[side] += self._reference.histogram(map(_score, live))
            if self._pairing:
                self._pairing.add(side, requests)

    def stop_pairing(self) -> None:
        """Once requests go to one version or the other, none has a partner."""
        self._pairing = None

    def scores(self, side: Side) -> dict[float, int]:
        """Upper edge of a bucket → requests whose score is in it."""
        counts = self._scores[side].tolist()
        return dict(zip(self._reference.edges, counts, strict=True))

    def pairs(self) -> Pairs | None:
        return self._pairing.pairs() if self._pairing else None


class Pairing:
    """Requests that both versions answered, compared row by row.

    A row disagrees if its scores are further apart (Euclidean distance) than the gate's
    tolerance times `spread`, the standard deviation of stable's scores.
    """

    def __init__(self, gate: Predictions, spread: float) -> None:
        self._gate = gate
        self._limit = gate.tolerance * spread + _SAME
        self._waiting: tuple[_Waiting, _Waiting] = (defaultdict(list), defaultdict(list))
        self._requests = 0
        self._disagreement = 0.0
        self._slices: dict[str, dict[str, list[float]]] = {name: {} for name in gate.slices}
        """input → value → [requests, disagreement]"""
        self._largest: list[tuple[float, Disagreement]] = []

    def add(self, side: int, requests: Sequence[Request]) -> None:
        for one in requests:
            other = _take(self._waiting[1 - side], one)
            if other is None:
                self._waiting[side][one.id].append(one)
            else:
                self._compare(*((one, other) if side == 0 else (other, one)))

    def pairs(self) -> Pairs:
        """Totals so far."""
        return Pairs(
            requests=self._requests,
            disagreement=self._disagreement,
            slices={
                f"{name}={value}": Slice(requests=int(requests), disagreement=disagreement)
                for name, values in self._slices.items()
                for value, (requests, disagreement) in values.items()
            },
            largest=tuple(each for _, each in self._largest),
        )

    def _compare(self, stable: Request, candidate: Request) -> None:
        distances = list(map(_distance, stable.scores, candidate.scores))
        apart = [distance > self._limit for distance in distances]
        self._requests += 1
        self._disagreement += sum(apart) / len(apart)
        for total, rows in self._sliced(stable.inputs):
            total[0] += 1
            total[1] += sum(apart[row] for row in rows) / len(rows)
        for row, distance in enumerate(distances):
            if apart[row]:
                self._keep(distance, row, stable, candidate)

    def _sliced(self, inputs: list[dict[str, Any]]) -> Iterator[tuple[list[float], list[int]]]:
        """The totals of each slice in a request, and the slice's rows."""
        for name, values in self._slices.items():
            rows: dict[str, list[int]] = defaultdict(list)
            for row, given in enumerate(inputs):
                value = _text(given.get(name))
                if value not in values and len(values) >= _VALUES:
                    value = "other"
                values.setdefault(value, [0, 0.0])
                rows[value].append(row)
            for value, members in rows.items():
                yield values[value], members

    def _keep(self, distance: float, row: int, stable: Request, candidate: Request) -> None:
        if len(self._largest) == _LARGEST and distance <= self._largest[-1][0]:
            return
        entry = Disagreement(
            request_id=stable.id,
            row=row,
            inputs={name: _finite(value) for name, value in stable.inputs[row].items()},
            stable=[_finite(score) for score in stable.scores[row]],
            candidate=[_finite(score) for score in candidate.scores[row]],
        )
        ranked = sorted([*self._largest, (distance, entry)], key=lambda e: e[0], reverse=True)
        self._largest = ranked[:_LARGEST]


_Waiting = dict[str, list[Request]]
"""by request id"""


def _take(waiting: _Waiting, one: Request) -> Request | None:
    """The first that waits for `one`, which then waits no more."""
    same = waiting.get(one.id, [])
    for place, other in enumerate(same):
        if other.asks_the_same(one):
            if len(same) == 1:
                del waiting[one.id]
            return same.pop(place)
    return None


def _score(request: Request) -> float:
    """Of its sampled row."""
    row = sampled_row(request.id, len(request.scores))
    return one_number(request.scores[row])


def _distance(a: list[float], b: list[float]) -> float:
    """Euclidean; what can't be compared is infinitely far apart."""
    if len(a) != len(b) or not all(map(math.isfinite, [*a, *b])):
        return math.inf
    return math.dist(a, b)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _text(value: Any) -> str:
    if _finite(value) is None:
        return "missing"
    return f"{value:g}" if isinstance(value, float) else str(value)
