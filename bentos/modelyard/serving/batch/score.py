"""Scores the rows of a file.

Rows are checked as those of a request are, a bounded number at a time. OUTPUT (Parquet) has
the columns of INPUT, and `row`, `score`, `class`, `version` and `package`; what does not fit
the signature goes to the quarantine, with the `reason`. Both files appear whole, or not at all.
"""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from modelyard.documents import UserError
from modelyard.documents.package import SCORE
from modelyard.serving.batch.source import Source
from modelyard.serving.codec.arrow_codec import ArrowDecoder
from modelyard.serving.inference.model import Model
from modelyard.serving.package import Package, read_package

BATCH_ROWS = 2**14
MOST_THREADS = 4
"""more would wait for the one that reads and writes"""
MAX_QUARANTINED_SHARE = 0.01

Made = TypeVar("Made")


@dataclass
class Counts:
    """`scored + quarantined == read`, always."""

    read: int = 0
    scored: int = 0
    quarantined: int = 0
    reason: str = ""
    """of the first row in quarantine"""
    content: str = ""
    """SHA-256 of the output"""


class Scorer:
    """Tables of rows → tables of scores and of quarantined rows, by one package."""

    def __init__(self, package: Package, schema: pa.Schema) -> None:
        """
        Raises:
            UserError: the package is not fit to serve, or a column has the name of one that
                is written.
        """
        self._model, self._package = Model(package.path), package
        self._decoder = ArrowDecoder(package.signature)
        signature = package.signature
        number = pa.list_(pa.float32()) if signature.task == "multiclass" else pa.float32()
        self._added = [pa.field(SCORE, number)]
        if signature.classes:
            self._added.append(pa.field("class", pa.string()))
        self._added += [pa.field("version", pa.int32()), pa.field("package", pa.string())]
        row = pa.field("row", pa.int64())
        taken = {row.name, "reason", *(field.name for field in self._added)} & {*schema.names}
        if taken:
            raise UserError(
                f"column {', '.join(sorted(taken))}: the output has one of this name itself; "
                "give it another one"
            )
        self.scored = pa.schema([row, *schema, *self._added])
        self.quarantined = pa.schema([row, *schema, pa.field("reason", pa.string())])

    def __call__(self, start: int, table: pa.Table) -> tuple[pa.Table, pa.Table]:
        """
        Args:
            start: the number of the table's first row in the input.

        Raises:
            UserError: a score is no finite number.
        """
        count = table.num_rows
        (numbers, categories), errors = self._decoder.encode(table, most=count)
        table = table.add_column(0, "row", pa.array(np.arange(start, start + count)))
        if not errors:
            return self._scores(table, numbers, categories), self.quarantined.empty_table()
        reasons: dict[int, list[str]] = {}
        for row, field, message in sorted(errors):
            reasons.setdefault(row, []).append(f"{field}: {message}")
        bad = np.fromiter(reasons, dtype=np.int64)
        good = np.setdiff1d(np.arange(count), bad, assume_unique=True)
        told = [["; ".join(messages) for messages in reasons.values()]]
        quarantined = table.take(bad).append_column("reason", told)
        return self._scores(table.take(good), numbers[good], categories[good]), quarantined

    def _scores(self, table: pa.Table, numbers: np.ndarray, categories: np.ndarray) -> pa.Table:
        rows, signature = table.num_rows, self._package.signature
        if not rows:
            return self.scored.empty_table()
        scores = self._model.graph(numbers, categories)
        finite = np.isfinite(scores.reshape(rows, -1)).all(axis=1)
        if not finite.all():
            bad = int(np.argmin(finite))
            raise UserError(
                f"row {table['row'][bad]} scores {scores[bad]}: the model is at fault, not the "
                "row; choose another version"
            )
        columns: list[pa.Array] = [_numbers(scores)]
        if signature.classes:
            codes = scores.argmax(axis=1) if scores.ndim > 1 else scores >= 0.5
            columns.append(pa.array(signature.classes).take(pa.array(codes.astype(np.int64))))
        columns.append(pa.repeat(pa.scalar(self._package.version, pa.int32()), rows))
        columns.append(pa.repeat(self._package.id, rows))
        return pa.Table.from_arrays([*table.columns, *columns], schema=self.scored)


def score(
    package: Path,
    given: Path,
    output: Path,
    quarantine: Path,
    max_quarantined_share: float = MAX_QUARANTINED_SHARE,
    progress: Callable[[Counts], None] = lambda counts: None,
) -> Counts:
    """Score the rows of `given` into `output`.

    Raises:
        UserError: the package or the input cannot be used, more rows than the share do not
            fit the signature (the quarantine is written then), or a file cannot be written.
    """
    chosen = read_package(package)
    source = Source(given, chosen.signature)
    if output.suffix != ".parquet":
        raise UserError(f"{output}: the output is Parquet; choose a name that ends in .parquet")
    for path in (output.resolve(), quarantine.resolve()):
        if given.resolve() in (path, path.parent):
            raise UserError(f"{path}: lies in the input; choose another output")
    if output.resolve() == quarantine.resolve():
        raise UserError(f"{output}: is wanted for the scores and for the quarantine")
    scorer = Scorer(chosen, source.schema)
    with _temporary(output, quarantine) as (scored, refused):
        counts = _write(source, scorer, scored, refused, progress)
        if not counts.read:
            raise UserError(f"{given}: no rows")
        os.replace(refused, quarantine)
        if counts.quarantined > max_quarantined_share * counts.read:
            raise UserError(
                f"{given}: {counts.quarantined:,} of {counts.read:,} rows do not fit the "
                f"signature, more than {max_quarantined_share:.2%}; {counts.reason}. "
                f"All of them are in {quarantine}; nothing else was written"
            )
        os.replace(scored, output)
    return counts


def _write(
    source: Source,
    scorer: Scorer,
    scored: Path,
    refused: Path,
    progress: Callable[[Counts], None],
) -> Counts:
    counts = Counts()
    with (
        pq.ParquetWriter(scored, scorer.scored, compression="zstd") as good,
        pq.ParquetWriter(refused, scorer.quarantined, compression="zstd") as bad,
    ):
        for scores, quarantined in _in_order(scorer, _numbered(source.tables(BATCH_ROWS))):
            if quarantined.num_rows and not counts.quarantined:
                first = quarantined.slice(0, 1).to_pylist()[0]
                counts.reason = f"row {first['row']}: {first['reason']}"
            for writer, table in ((good, scores), (bad, quarantined)):
                if table.num_rows:
                    writer.write_table(table)
            counts.scored += scores.num_rows
            counts.quarantined += quarantined.num_rows
            counts.read = counts.scored + counts.quarantined
            progress(counts)
    with scored.open("rb") as file:
        counts.content = hashlib.file_digest(file, "sha256").hexdigest()
    return counts


def _numbered(tables: Iterable[pa.Table]) -> Iterator[tuple[int, pa.Table]]:
    """Each with the number of its first row."""
    start = 0
    for table in tables:
        yield start, table
        start += table.num_rows


def _in_order(
    work: Callable[[int, pa.Table], Made], items: Iterable[tuple[int, pa.Table]]
) -> Iterator[Made]:
    """What `work` makes of the items, in their order, with few of them in memory.

    The runtimes let go of Python's lock: one table is scored while another is read or written.
    """
    threads = min(MOST_THREADS, len(os.sched_getaffinity(0)))
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Made]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(work, *item))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _numbers(scores: np.ndarray) -> pa.Array:
    """Scores [N] or [N, classes] as numbers, or lists of them."""
    if scores.ndim == 1:
        return pa.array(scores)
    ends = np.arange(0, scores.size + 1, scores.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(scores.ravel()))


@contextmanager
def _temporary(*paths: Path) -> Iterator[list[Path]]:
    """A file beside each path, for taking its place; gone when the block ends.

    Raises:
        UserError: one cannot be written.
    """
    new = [path.with_name(f".{path.name}.{os.getpid()}") for path in paths]
    try:
        yield new
    except (OSError, pa.ArrowException) as error:
        number = getattr(error, "errno", None)
        said = os.strerror(number) if number else error
        named = " and ".join(map(str, paths))
        raise UserError(f"{named}: cannot be written: {said}; nothing was changed") from None
    finally:
        for path in new:
            with suppress(OSError):
                path.unlink()
