"""Valid rows → features: one Parquet file a partition, with the hash of its content."""

from collections.abc import Callable
from pathlib import Path

import polars as pl
import polars.selectors as cs

from modelyard.coding import fits
from modelyard.documents import Signature, UserError
from modelyard.documents.files import replaced
from modelyard.documents.signature import Category, Input, Number
from modelyard.pipeline.data.content import HASH, content_hash


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
    frame = checked(features(pl.scan_parquet(valid)), signature, path.stem)
    known = frame.filter(pl.col(signature.target).is_not_null())
    with replaced(path) as new:
        known.write_parquet(new, metadata={HASH: content_hash(known)})
    return len(known), len(frame) - len(known)


def checked(plan: pl.LazyFrame, signature: Signature, where: str) -> pl.DataFrame:
    """What features() gives, with null for NaN.

    Args:
        where: names the rows in messages.

    Raises:
        UserError: as `write_features`.
    """
    frame = plan.with_columns(cs.float().fill_nan(None)).collect(engine="streaming")
    _check(frame, signature, where)
    return frame


def _check(frame: pl.DataFrame, signature: Signature, where: str) -> None:
    wanted = [*(i.name for i in signature.inputs), signature.target]
    missing = [name for name in wanted if name not in frame.columns]
    if missing:
        raise UserError(
            f"features of {where}: no column {', '.join(missing)}; "
            "features() in features.py must give every declared input and the target"
        )
    for given in signature.inputs:
        column = frame[given.name]
        if not _has_type(column.dtype, given):
            wanted = "numbers" if isinstance(given, Number) else "strings"
            raise UserError(
                f"features of {where}: {given.name} must be a column of {wanted}, not "
                f"{column.dtype}; cast it in features(), as a request to the server must have it"
            )
        if column.null_count() and not given.nullable:
            raise UserError(
                f"features of {where}: {given.name} is missing in {column.null_count()} rows; "
                "declare it nullable, or let the contract refuse such rows"
            )
        if isinstance(given, Category) and not given.open:
            strange = sorted(set(column.drop_nulls().unique()) - set(given.values))
            if strange:
                raise UserError(
                    f"features of {where}: {given.name} has {strange[0]!r}, which its "
                    "declaration does not list; list it, or declare the category open"
                )
        elif isinstance(given, Number):
            known = column.drop_nulls()
            good = fits(known.cast(pl.Float64).to_numpy(), given)
            if not good.all():
                kind = "whole numbers in " if given.integer else ""
                raise UserError(
                    f"features of {where}: {given.name} has {known[int(good.argmin())]}, "
                    f"outside of its declaration {kind}[{given.low:g}, {given.high:g}]; widen the "
                    "declaration, or let the contract refuse such rows"
                )


def _has_type(dtype: pl.DataType, given: Input) -> bool:
    """Whether a column may have the values of this input, as a request's column may."""
    if isinstance(given, Number):
        return dtype.is_integer() or dtype.is_float() or dtype == pl.Null
    return dtype in (pl.String, pl.Categorical, pl.Enum, pl.Null)
