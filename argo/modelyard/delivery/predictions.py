"""Stable's and the candidate's predictions for the same requests, from their prediction logs.

A log is a folder of JSON-lines files, one line a row of a request:
`{"time": s, "request_id": str, "version": int, "row": int, "inputs": {…}, "score": …}`.
"""

import json
import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from modelyard.delivery.ports import Pairs

Key = tuple[str, int]
"""request id, row; a client may use its ids again"""


@dataclass(frozen=True)
class Prediction:
    """One row's."""

    inputs: dict[str, Any]
    score: list[float]

    def answers_the_same(self, other: "Prediction") -> bool:
        """Equal in the inputs that both versions know."""
        shared = self.inputs.keys() & other.inputs.keys()
        return all(self.inputs[name] == other.inputs[name] for name in shared)


class PredictionLog:
    """New lines of a log, each read once."""

    def __init__(self, folder: Path, since: float) -> None:
        self.folder = folder
        self.since = since
        self._read: dict[Path, int] = {}
        """bytes of each file that are done with"""

    def predictions(self) -> list[tuple[Key, Prediction]]:
        """What was logged since the last call (and after `since`); a half-written line waits."""
        found = []
        for path in sorted(self.folder.glob("*.jsonl")):
            with path.open("rb") as file:
                if path not in self._read:
                    self._read[path] = _first_after(file, self.since)
                file.seek(self._read[path])
                whole = file.read().rpartition(b"\n")[0]
            if not whole:
                continue
            self._read[path] += len(whole) + 1
            for line in whole.split(b"\n"):
                row = _parse(line)
                if row is not None and row["time"] >= self.since:
                    key = str(row["request_id"]), int(row["row"])
                    inputs = row.get("inputs") or {}
                    found.append((key, Prediction(inputs, _numbers(row["score"]))))
        return found


_Waiting = dict[Key, list[Prediction]]


class Pairing:
    """Rows that both versions answered since the shadow began."""

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
            for key, one in log.predictions():
                other = _take(self._waiting[1 - arm], key, one)
                if other is None:
                    self._waiting[arm][key].append(one)
                    continue
                self._distances.append(_distance(one.score, other.score))
                self._stable.append(one.score if arm == 0 else other.score)


def _take(waiting: _Waiting, key: Key, one: Prediction) -> Prediction | None:
    """The first that waits for `one`, which then waits no more."""
    same = waiting.get(key, [])
    for place, other in enumerate(same):
        if other.answers_the_same(one):
            if len(same) == 1:
                del waiting[key]
            return same.pop(place)
    return None


def _numbers(score: Any) -> list[float]:
    values = score if isinstance(score, list) else [score]
    return [float(v) if isinstance(v, int | float) else math.nan for v in values]


def _distance(a: list[float], b: list[float]) -> float:
    """Euclidean; what can't be compared is infinitely far apart."""
    if len(a) != len(b) or not all(map(math.isfinite, [*a, *b])):
        return math.inf
    return math.dist(a, b)


def _parse(line: bytes) -> dict[str, Any] | None:
    """None for a line that is no prediction, such as one that a crash cut off."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    wanted = {"time", "request_id", "row", "score"}
    return row if isinstance(row, dict) and wanted <= row.keys() else None


def _first_after(file: BinaryIO, since: float) -> int:
    """Where the first line not before `since` may begin: lines are in order of time, so by
    bisection over the bytes. A stable version's log can hold days."""
    low, high = 0, file.seek(0, 2)
    while high - low > 1 << 16:
        middle = (low + high) // 2
        file.seek(middle)
        file.readline()
        row = _parse(file.readline())
        if row is not None and row["time"] < since:
            low = middle
        else:
            high = middle
    file.seek(low)
    if low:
        file.readline()
    return file.tell()
