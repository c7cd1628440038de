"""Rows that break the contract: none is lost, each has its reason."""

from datetime import UTC, datetime
from pathlib import Path

import pandera.polars as pa
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.documents import UserError
from modelyard.pipeline.data.contract import enforce, write


class Row(pa.DataFrameModel):
    number: int = pa.Field(ge=0, le=10)
    kind: str = pa.Field(isin=["x", "y"])
    value: float = pa.Field(nullable=True)
    time: pl.Datetime("us", "UTC") = pa.Field()  # pyrefly: ignore

    class Config:  # pyrefly: ignore
        unique = ["number", "kind"]

    @pa.dataframe_check
    def number_below_value(cls, data: pa.PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select((pl.col("number") < pl.col("value")).fill_null(True))


TIME = "2013-01-01T06:00:00Z"
GOOD = {"number": "1", "kind": "x", "value": "2.5", "time": TIME, "extra": "kept in quarantine"}


def rows(*changes: dict) -> pl.DataFrame:
    return pl.DataFrame(
        [{**GOOD, **change} for change in changes], schema=dict.fromkeys(GOOD, pl.String)
    )


def test_good_rows_get_the_types_of_the_contract() -> None:
    found = enforce(rows({}, {"number": "2", "value": None}), Row, "2013-01")
    assert (found.read, len(found.valid), len(found.quarantined)) == (2, 2, 0)
    assert found.valid.row(0) == (1, "x", 2.5, datetime(2013, 1, 1, 6, tzinfo=UTC))
    assert found.quarantined_share == 0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"number": "11"}, "number: 11 breaks less_than_or_equal_to(10); number_below_value"),
        ({"number": "many"}, "number: cannot read 'many' as Int64; number: missing"),
        ({"number": None}, "number: missing"),
        ({"kind": "z"}, "kind: z breaks isin(['x', 'y'])"),
        ({"value": "0.5"}, "number_below_value"),
        ({"time": "yesterday"}, "time: cannot read 'yesterday' as Datetime"),
    ],
)
def test_a_bad_row_is_quarantined_as_read_with_its_reason(change: dict, reason: str) -> None:
    found = enforce(rows({"number": "7", "value": "9"}, change), Row, "2013-01")
    assert len(found.valid) == 1 and found.quarantined_share == 0.5
    bad = found.quarantined.row(0, named=True)
    for part in reason.split("; "):
        assert any(said.startswith(part) for said in bad["reason"].split("; ")), bad["reason"]
    assert {k: v for k, v in bad.items() if k != "reason"} == {**GOOD, **change}


class Typed(pa.DataFrameModel):
    whole: int = pa.Field(nullable=True)
    real: float = pa.Field()
    flag: bool = pa.Field()


TYPED = {"whole": 1, "real": 2.5, "flag": True}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"whole": 1.7}, "whole: cannot read '1.7' as Int64"),
        ({"whole": float("inf")}, "whole: cannot read 'inf' as Int64"),
        ({"whole": True}, "whole: cannot read 'true' as Int64"),
        ({"real": True}, "real: cannot read 'true' as Float64"),
        ({"flag": 2}, "flag: cannot read '2' as Boolean"),
    ],
)
def test_a_value_of_another_type_that_a_cast_would_change(change: dict, reason: str) -> None:
    found = enforce(pl.DataFrame([TYPED | change]), Typed, "2013-01")
    assert found.quarantined["reason"][0].startswith(reason)


def test_a_value_of_another_type_that_stays_the_same() -> None:
    given = pl.DataFrame({"whole": [1.0, None, 1.7], "real": [2, 3, 4], "flag": [1, 0, 1]})
    found = enforce(given, Typed, "2013-01")
    assert found.valid.rows() == [(1, 2.0, True), (None, 3.0, False)]


def test_a_source_column_called_reason_is_refused() -> None:
    with pytest.raises(UserError, match="2013-01: the source has a column `reason`"):
        enforce(rows({}).rename({"extra": "reason"}), Row, "2013-01")


def test_all_of_a_rows_reasons_stand_in_it_once() -> None:
    found = enforce(rows({"number": "-1", "kind": "z"}), Row, "2013-01")
    reason = "number: -1 breaks greater_than_or_equal_to(0); kind: z breaks isin(['x', 'y'])"
    assert found.quarantined["reason"].to_list() == [reason]


def test_rows_that_stand_twice_are_both_quarantined() -> None:
    found = enforce(rows({}, {}, {"number": "2"}), Row, "2013-01")
    assert found.quarantined["reason"].to_list() == ["stands more than once"] * 2


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "number": st.sampled_from(["0", "1", "2", "11", "", "x", None]),
                "kind": st.sampled_from(["x", "y", "z", None]),
                "value": st.sampled_from(["5", "0", "nan", None]),
            }
        ),
        max_size=12,
    )
)
def test_no_row_is_lost(changes: list[dict]) -> None:
    frame = rows(*changes)
    found = enforce(frame, Row, "2013-01")
    assert len(found.valid) + len(found.quarantined) == found.read == len(frame)
    assert found.quarantined["reason"].str.len_chars().min() != 0
    Row.validate(found.valid)


def test_a_missing_column_is_the_sources_or_the_contracts_mistake() -> None:
    with pytest.raises(UserError, match="2013-01: no column kind; it has number, value"):
        enforce(rows({}).drop("kind"), Row, "2013-01")


def test_both_files_are_written(tmp_path: Path) -> None:
    found = enforce(rows({}, {"kind": "z", "number": "3"}), Row, "2013-01")
    write(found, tmp_path / "valid.parquet", tmp_path / "quarantine.parquet")
    assert len(pl.read_parquet(tmp_path / "valid.parquet")) == 1
    assert "reason" in pl.read_parquet_schema(tmp_path / "quarantine.parquet")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["quarantine.parquet", "valid.parquet"]
