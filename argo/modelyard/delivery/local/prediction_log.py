"""A version's prediction log, read request by request while it is being written."""

import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelyard.documents.package import SCORE
from modelyard.documents.prediction_log import INPUTS, REQUEST_ID, ROW, TIME, is_whole

_NEEDED = {TIME, REQUEST_ID, ROW, SCORE}
"""columns; `INPUTS` may be missing"""


@dataclass(frozen=True)
class Request:
    """What one request asked, and what it was answered, row by row."""

    id: str
    """`x-request-id`; a client may use one again"""
    inputs: list[dict[str, Any]] = field(default_factory=list)
    scores: list[list[float]] = field(default_factory=list)
    """one number a row, or one a class; NaN for what is no number"""

    def asks_the_same(self, other: "Request") -> bool:
        """As many rows, equal in the inputs that both versions know."""
        if len(self.inputs) != len(other.inputs):
            return False
        rows = zip(self.inputs, other.inputs, strict=True)
        return all(_same(a[k], b[k]) for a, b in rows for k in a.keys() & b.keys())


class PredictionLog:
    """New requests of a log, each read once."""

    def __init__(self, folder: Path, since: float) -> None:
        self.folder = folder
        self.since = since
        self._read: set[str] = set()
        """files that are done with"""

    def requests(self) -> list[Request]:
        """What was logged since the last call, and answered at or after `since`.

        What can't be read, such as what a crash cut off, is left out.
        """
        found: list[Request] = []
        # There can be very many files by now: only the new ones are worth a thought.
        for name in sorted(_names(self.folder) - self._read):
            self._read.add(name)
            found += _requests(_table(self.folder / name, self.since))
        return found


def _names(folder: Path) -> set[str]:
    try:
        return set(filter(is_whole, os.listdir(folder)))
    except FileNotFoundError:
        return set()


def latest_requests(folder: Path, most: int, without: str = "") -> list[Request]:
    """About the newest `most` requests of a log, whose ids do not begin with `without`."""
    found: list[Request] = []
    paths = [folder / name for name in _names(folder)]
    for path in sorted(paths, key=_modified, reverse=True):
        requests = _requests(_table(path, 0.0))
        found += [r for r in requests if not (without and r.id.startswith(without))]
        if len(found) >= most:
            break
    return found[-most:]


def _requests(rows: Iterable[dict[str, Any]]) -> list[Request]:
    found: list[Request] = []
    for row in rows:
        if row[ROW] == 0 or not found or found[-1].id != row[REQUEST_ID]:
            found.append(Request(str(row[REQUEST_ID])))
        found[-1].inputs.append(row.get(INPUTS) or {})
        found[-1].scores.append(_numbers(row[SCORE]))
    return found


def _numbers(score: Any) -> list[float]:
    values = score if isinstance(score, list) else [score]
    return [float(v) if isinstance(v, int | float) else math.nan for v in values]


def _same(a: Any, b: Any) -> bool:
    """Equal; two versions may keep a number in other widths, and a missing one is NaN or None."""
    if isinstance(a, float) or isinstance(b, float):
        a, b = (math.nan if v is None else v for v in (a, b))
        if not (isinstance(a, int | float) and isinstance(b, int | float)):
            return False
        return math.isclose(a, b, rel_tol=1e-6) or (math.isnan(a) and math.isnan(b))
    return a == b


def _table(path: Path, since: float) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file; none of one that was closed before `since`."""
    import polars as pl

    try:
        if path.stat().st_mtime < since:
            return
        there = pl.read_parquet_schema(path).keys() & {*_NEEDED, INPUTS}
        if not _NEEDED <= there:
            return
        rows = pl.read_parquet(path, columns=sorted(there)).filter(pl.col(TIME) >= since)
        yield from rows.to_dicts()
    except (OSError, pl.exceptions.PolarsError):
        return


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
