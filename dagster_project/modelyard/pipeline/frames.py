"""Feature frames: one Parquet file a partition, named by the hash of its content."""

import hashlib
from collections.abc import Callable, Iterable
from io import BytesIO
from pathlib import Path

import polars as pl
import polars.selectors as cs

from modelyard.coding import fits
from modelyard.documents import Signature, UserError
from modelyard.documents.signature import Category, Input, Number
from modelyard.pipeline.settings import Months
from modelyard.pipeline.workspace import Workspace, replaced

HASH = "modelyard.content"
"""key of the content's hash in a Parquet file's metadata"""
REPLAY_ROWS = 20_000


def content_hash(frame: pl.DataFrame) -> str:
    """SHA-256 over names, types and values; the same however the frame was put together."""
    digest = hashlib.sha256()
    for column in frame.rechunk():
        missing, values = column.is_null().arg_true(), column.drop_nulls()
        # Gathered, the bytes hold no more than the values: nothing under nulls or beside a slice.
        values = values.gather(pl.int_range(len(values), eager=True))
        for part in (missing, values):
            buffer = BytesIO()
            # Without views, a column's bytes depend on its values alone.
            part.to_frame().write_ipc_stream(buffer, compat_level=pl.CompatLevel.oldest())
            digest.update(buffer.getbuffer())
    return digest.hexdigest()


def combined(hashes: Iterable[str]) -> str:
    """One hash for a sequence of partitions."""
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def write_features(
    valid: Path,
    path: Path,
    features: Callable[[pl.LazyFrame], pl.LazyFrame],
    signature: Signature,
) -> tuple[int, int]:
    """One partition of valid rows → one of features: inputs, target, and what else there is.

    A row whose target is null is no training row (nobody knows yet how it ended): it
    stays in the valid data, and is left out here.

    Returns:
        (rows written, rows left out for want of a target).

    Raises:
        UserError: a declared input or the target is missing, or has values outside its
            declaration.
    """
    plan = features(pl.scan_parquet(valid)).with_columns(cs.float().fill_nan(None))
    frame = plan.collect(engine="streaming")
    _check(frame, signature, path)
    known = frame.filter(pl.col(signature.target).is_not_null())
    with replaced(path) as new:
        known.write_parquet(new, metadata={HASH: content_hash(known)})
    return len(known), len(frame) - len(known)


def _check(frame: pl.DataFrame, signature: Signature, path: Path) -> None:
    wanted = [*(i.name for i in signature.inputs), signature.target]
    missing = [name for name in wanted if name not in frame.columns]
    if missing:
        raise UserError(
            f"features of {path.stem}: no column {', '.join(missing)}; "
            "features() in features.py must give every declared input and the target"
        )
    for given in signature.inputs:
        column = frame[given.name]
        if not _has_type(column.dtype, given):
            wanted = "numbers" if isinstance(given, Number) else "strings"
            raise UserError(
                f"features of {path.stem}: {given.name} must be a column of {wanted}, not "
                f"{column.dtype}; cast it in features(), as a request to the server must have it"
            )
        if column.null_count() and not given.nullable:
            raise UserError(
                f"features of {path.stem}: {given.name} is missing in {column.null_count()} rows; "
                "declare it nullable, or let the contract refuse such rows"
            )
        if isinstance(given, Category) and not given.open:
            strange = sorted(set(column.drop_nulls().unique()) - set(given.values))
            if strange:
                raise UserError(
                    f"features of {path.stem}: {given.name} has {strange[0]!r}, which its "
                    "declaration does not list; list it, or declare the category open"
                )
        elif isinstance(given, Number):
            known = column.drop_nulls()
            good = fits(known.cast(pl.Float64).to_numpy(), given)
            if not good.all():
                kind = "whole numbers in " if given.integer else ""
                raise UserError(
                    f"features of {path.stem}: {given.name} has {known[int(good.argmin())]}, "
                    f"outside of its declaration {kind}[{given.low:g}, {given.high:g}]; widen the "
                    "declaration, or let the contract refuse such rows"
                )


def _has_type(dtype: pl.DataType, given: Input) -> bool:
    """Whether a column may have the values of this input, as a request's column may."""
    if isinstance(given, Number):
        return dtype.is_integer() or dtype.is_float() or dtype == pl.Null
    return dtype in (pl.String, pl.Categorical, pl.Enum, pl.Null)


def stored_hash(path: Path) -> str:
    return pl.read_parquet_metadata(path)[HASH]


def rows_in(paths: Iterable[Path]) -> int:
    """Rows of Parquet files, read from their footers."""
    found = [path for path in paths if path.exists()]
    return pl.scan_parquet(found).select(pl.len()).collect().item() if found else 0


def join_partitions(workspace: Workspace, months: Months, name: str) -> tuple[int, str]:
    """The feature partitions of `months` as one dataset, in order of time.

    Returns:
        (rows, hash of the partitions' hashes).

    Raises:
        UserError: a partition is missing.
    """
    paths = [workspace.partition("features", month) for month in months]
    missing = [path.stem for path in paths if not path.exists()]
    if missing:
        raise UserError(
            f"the {name} months {', '.join(missing)} have no features yet; run "
            f"`python -m modelyard.pipeline.materialize --partitions {missing[0]}...{missing[-1]}`"
        )
    digest = combined(stored_hash(path) for path in paths)
    with replaced(workspace.dataset(name)) as new:
        pl.scan_parquet(paths).sink_parquet(new, metadata={HASH: digest})
    return rows_in([workspace.dataset(name)]), digest


def write_replay(workspace: Workspace, signature: Signature, rows: int = REPLAY_ROWS) -> int:
    """Held-out test rows, inputs only, in an order that is random and always the same.

    They are what a release replays as live traffic.
    """
    inputs = [given.name for given in signature.inputs]
    test = pl.read_parquet(workspace.dataset("test"), columns=inputs)
    chosen = test.sample(min(rows, len(test)), shuffle=True, seed=0)
    with replaced(workspace.dataset("replay")) as new:
        chosen.write_parquet(new)
    return len(chosen)
