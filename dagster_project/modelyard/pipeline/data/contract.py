"""The data contract: rows that keep it go on, rows that break it go to quarantine."""

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from modelyard.documents import UserError
from modelyard.documents.files import replaced

ROW = "__row__"
LONGEST = 120
"""characters of a check's or a value's text in a reason"""


@dataclass(frozen=True)
class Enforced:
    """`len(valid) + len(quarantined) == read`, always."""

    read: int
    valid: pl.DataFrame
    """the contract's columns in its order and types"""
    quarantined: pl.DataFrame
    """the bad rows as they were read, and `reason`: what each of them breaks"""

    @property
    def quarantined_share(self) -> float:
        return len(self.quarantined) / self.read if self.read else 0.0


def enforce(rows: pl.DataFrame, contract: type, where: str) -> Enforced:
    """Part `rows` (one bounded partition, columns possibly still text) by the contract.

    Every cell is first read as its column's type; a cell that cannot be is a reason, as
    is every check of the pandera model that fails.

    Args:
        rows: at least the columns of the contract; others are dropped from `valid`, and none
            is called `reason`.
        contract: a `pandera.polars.DataFrameModel`.
        where: names the partition in messages.

    Raises:
        UserError: a column is missing or called `reason`, or the contract itself fails on
            these rows.
    """
    schema = contract.to_schema()  # pyrefly: ignore[missing-attribute]
    dtypes = {name: column.dtype.type for name, column in schema.columns.items()}
    missing = [name for name in dtypes if name not in rows.columns]
    if missing:
        raise UserError(
            f"{where}: no column {', '.join(missing)}; it has {', '.join(rows.columns)}. "
            "Mend the source, or the contract in contract.py"
        )
    if "reason" in rows.columns:
        raise UserError(
            f"{where}: the source has a column `reason`, which in quarantine says what a row "
            "breaks; give it another name in data.py, and in contract.py"
        )
    typed = rows.select(_read(rows[name], dtype) for name, dtype in dtypes.items())
    reasons = pl.concat([_unreadable(rows, typed, dtypes), _broken(typed, contract, where)])
    by_row = (
        reasons.unique(maintain_order=True)
        .group_by(ROW, maintain_order=True)
        .agg(pl.col("reason").str.join("; "))
    )
    quarantined = (
        rows.with_row_index(ROW)
        .with_columns(pl.col(ROW).cast(pl.Int64))
        .join(by_row, on=ROW, how="inner", maintain_order="left")
        .drop(ROW)
    )
    bad = pl.Series(by_row[ROW]).unique()
    keep = ~pl.int_range(len(rows), eager=True).is_in(bad.implode())
    enforced = Enforced(len(rows), typed.filter(keep), quarantined)
    if len(enforced.valid) + len(enforced.quarantined) != enforced.read:
        raise AssertionError(
            f"{where}: {len(enforced.valid)} valid and {len(quarantined)} quarantined rows "
            f"of {len(rows)} read"
        )
    return enforced


def write(enforced: Enforced, valid: Path, quarantine: Path) -> None:
    """Both files, as Parquet; each is whole or not there."""
    for frame, path in ((enforced.quarantined, quarantine), (enforced.valid, valid)):
        with replaced(path) as new:
            frame.write_parquet(new)


def _read(column: pl.Series, dtype: pl.DataType) -> pl.Series:
    if column.dtype == pl.String and dtype.is_temporal():
        return column.str.strptime(dtype, strict=False)  # pyrefly: ignore[bad-argument-type]
    typed = column.cast(dtype, strict=False)
    if column.dtype == pl.Boolean and dtype.is_numeric():
        return typed.clear(len(typed))  # true is no number
    narrowed = (column.dtype.is_float() and dtype.is_integer()) or (
        column.dtype.is_numeric() and dtype == pl.Boolean
    )
    # 1.7 is no whole number, 2 neither true nor false: a cast would make it one.
    return typed.set(typed.cast(column.dtype) != column, None) if narrowed else typed


def _unreadable(rows: pl.DataFrame, typed: pl.DataFrame, dtypes: dict) -> pl.DataFrame:
    """(row, reason) of each cell that has a value, but none of its column's type."""
    found = [_reasons()]
    for name, dtype in dtypes.items():
        index = (rows[name].is_not_null() & typed[name].is_null()).arg_true()
        values = rows[name].gather(index).cast(pl.String).str.slice(0, LONGEST)
        found.append(
            _reasons(index, [f"{name}: cannot read {value!r} as {dtype}" for value in values])
        )
    return pl.concat(found)


def _broken(typed: pl.DataFrame, contract: type, where: str) -> pl.DataFrame:
    """(row, reason) of each check that fails."""
    import pandera.errors

    try:
        # A DataFrame: pandera skips the checks of values on a LazyFrame.
        contract.validate(typed, lazy=True)  # pyrefly: ignore[missing-attribute]
    except pandera.errors.SchemaErrors as error:
        cases = error.failure_cases
    else:
        return _reasons()
    whole = cases.filter(pl.col("index").is_null())
    if len(whole):
        first = whole.row(0, named=True)
        raise UserError(
            f"{where}: the contract cannot be checked: {first['column']}: {first['check']}: "
            f"{first['failure_case']}. Mend the contract in contract.py"
        )
    return _reasons(cases["index"], [_reason(case) for case in cases.iter_rows(named=True)])


def _reason(case: dict) -> str:
    check = str(case["check"])
    if check == "not_nullable":
        return f"{case['column']}: missing"
    if check == "multiple_fields_uniqueness":
        # Nobody knows which of them is right. Teams' tests, once seeded, assert these words.
        return "stands more than once"
    if case["schema_context"] == "DataFrameSchema":
        return check[:LONGEST]
    return f"{case['column']}: {str(case['failure_case'])[:LONGEST]} breaks {check[:LONGEST]}"


def _reasons(index: pl.Series | None = None, reason: list[str] | None = None) -> pl.DataFrame:
    return pl.DataFrame(
        {ROW: [] if index is None else index, "reason": reason or []},
        schema={ROW: pl.Int64, "reason": pl.String},
    )
