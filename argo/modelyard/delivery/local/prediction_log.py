"""A version's prediction log, read request by request while it is being written.

A log is a folder of either kind of file, or both:

- Parquet, `v{version}-{host}-{pid}-{start}-{n:06d}.parquet`: there complete or not at all.
  Columns: `time` f64 (s since the epoch), `request_id` str, `row` i32, `inputs` struct,
  `score` f64 or list<f64>; others are left alone.
- JSON lines, `*.jsonl`, with the same keys; the last line may be half-written.

A request's rows stand together, in order, in one file; row 0 begins a request.
"""

import itertools
import json
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

_COLUMNS = ("time", "request_id", "row", "inputs", "score")
_TAIL_BYTES = 8 << 20
_NEEDED = {"time", "request_id", "row", "score"}


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
        self._lines: dict[str, int] = {}
        """JSON-lines file → bytes of it that are done with"""
        self._tables: set[str] = set()
        """Parquet files that are done with"""

    def requests(self) -> list[Request]:
        """What was logged since the last call, and answered at or after `since`.

        What can't be read, such as what a crash cut off, is left out.
        """
        found: list[Request] = []
        # There can be very many files by now: only the new ones are worth a thought.
        for name in sorted(_names(self.folder) - self._tables):
            path = self.folder / name
            if name.endswith(".jsonl"):
                found += self._new_lines(path)
            else:
                self._tables.add(name)
                found += _requests(_table(path, self.since), self.since)
        return found

    def _new_lines(self, path: Path) -> list[Request]:
        with path.open("rb") as file:
            if path.name not in self._lines:
                self._lines[path.name] = _first_after(file, self.since)
            file.seek(self._lines[path.name])
            whole = file.read().rpartition(b"\n")[0]
        if not whole:
            return []
        self._lines[path.name] += len(whole) + 1
        return _requests(filter(None, map(_parse, whole.split(b"\n"))), self.since)


def _names(folder: Path) -> set[str]:
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return set()
    wanted = (".jsonl", ".parquet")
    return {name for name in names if name.endswith(wanted) and not name.startswith(".")}


def latest_requests(folder: Path, most: int, without: str = "") -> list[Request]:
    """About the newest `most` requests of a log, whose ids do not begin with `without`."""
    found: list[Request] = []
    paths = [folder / name for name in _names(folder)]
    for path in sorted(paths, key=_modified, reverse=True):
        rows = _tail(path) if path.suffix == ".jsonl" else _table(path, 0.0)
        found += [r for r in _requests(rows, 0.0) if not (without and r.id.startswith(without))]
        if len(found) >= most:
            break
    return found[-most:]


def _requests(rows: Iterable[dict[str, Any]], since: float) -> list[Request]:
    found: list[Request] = []
    for row in rows:
        if row["time"] < since:
            continue
        if row["row"] == 0 or not found or found[-1].id != row["request_id"]:
            found.append(Request(str(row["request_id"])))
        found[-1].inputs.append(row.get("inputs") or {})
        found[-1].scores.append(_numbers(row["score"]))
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
        there = [c for c in _COLUMNS if c in pl.read_parquet_schema(path)]
        if not _NEEDED <= set(there):
            return
        yield from pl.read_parquet(path, columns=there).filter(pl.col("time") >= since).to_dicts()
    except (OSError, pl.exceptions.PolarsError):
        return


def _tail(path: Path) -> Iterator[dict[str, Any]]:
    """The whole requests among the last lines of a file."""
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, 2) - _TAIL_BYTES))
        if file.tell():
            file.readline()
        rows = filter(None, map(_parse, file))
        yield from itertools.dropwhile(lambda row: row["row"] != 0, rows)


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _parse(line: bytes) -> dict[str, Any] | None:
    """None for a line that is no prediction, such as one that a crash cut off."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    if not isinstance(row, dict) or not _NEEDED <= row.keys():
        return None
    return row if isinstance(row["time"], int | float) else None


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
