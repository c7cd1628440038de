"""One value through every way to a graph: what JSON, Arrow, a batch and training make of it.

What is expected is what the graph gets: the float32, or a category's code. `REFUSED` is an
answer, too. All ways must give the same, or training and serving differ; `EXCEPT` has the rest.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from modelyard.coding import Coder
from modelyard.documents import Signature, UserError
from modelyard.documents.signature import Category, Input, Number
from modelyard.pipeline.data.features import write_features
from modelyard.pipeline.data.tensors import encode
from modelyard.serving.batch.source import Source
from modelyard.serving.codec.arrow_codec import ArrowDecoder, write
from modelyard.serving.codec.decode import Parser
from modelyard.serving.codec.errors import Refusal
from modelyard.serving.codec.types import ARROW, JSON
from modelyard.serving.codec.validation import Validator

REFUSED = "refused"
FLOAT32_MAX = 3.4028234663852886e38
ABOVE_MAX = math.nextafter(FLOAT32_MAX, math.inf)

FREE = Number(name="x")
NULLABLE = Number(name="x", nullable=True)
BOUNDED = Number(name="x", minimum=0.1, maximum=10)
HOUR = Number(name="x", integer=True, minimum=0, maximum=23)
WHOLE = Number(name="x", integer=True)
WIDE = Number(name="x", minimum=-1e300, maximum=1e300)
CLOSED = Category(name="x", values=("a", "b"))
CLOSED_NULLABLE = Category(name="x", values=("a", "b"), nullable=True)
OPEN = Category(name="x", values=("a", "b"), open=True)
OPEN_NULLABLE = Category(name="x", values=("a", "b"), open=True, nullable=True)
NUMERIC = Category(name="x", values=("1", "2"))


class Case(NamedTuple):
    given: Input
    value: Any
    expected: Any
    kind: pa.DataType | None = None
    """of the column; None: what Arrow makes of the value"""


CASES = {
    "float": Case(FREE, 1.5, 1.5),
    "int": Case(FREE, 3, 3.0),
    "int8": Case(FREE, 3, 3.0, pa.int8()),
    "uint64": Case(FREE, 2**63, 2.0**63, pa.uint64()),
    "rounded": Case(FREE, 0.1, 0.10000000149011612),
    "too precise": Case(FREE, 2**24 + 1, 2.0**24),
    "subnormal": Case(FREE, 1e-46, 0.0),
    "minus zero": Case(FREE, -0.0, 0.0),
    "null": Case(FREE, None, REFUSED),
    "null of floats": Case(FREE, None, REFUSED, pa.float64()),
    "null, nullable": Case(NULLABLE, None, math.nan),
    "null of floats, nullable": Case(NULLABLE, None, math.nan, pa.float64()),
    "null of ints, nullable": Case(NULLABLE, None, math.nan, pa.int64()),
    "NaN": Case(FREE, math.nan, REFUSED),
    "NaN, nullable": Case(NULLABLE, math.nan, REFUSED),
    "NaN, bounded": Case(BOUNDED, math.nan, REFUSED),
    "inf": Case(FREE, math.inf, REFUSED),
    "-inf, nullable": Case(NULLABLE, -math.inf, REFUSED),
    "inf, wide": Case(WIDE, math.inf, REFUSED),
    "text": Case(FREE, "one", REFUSED),
    "digits": Case(FREE, "1.5", REFUSED),
    "digits, nullable": Case(NULLABLE, "1.5", REFUSED),
    "bool": Case(FREE, True, REFUSED),
    "bool, bounded": Case(HOUR, True, REFUSED),
    "float32's most": Case(FREE, FLOAT32_MAX, FLOAT32_MAX),
    "beyond float32, rounds into it": Case(FREE, ABOVE_MAX, REFUSED),
    "beyond float32": Case(FREE, 1e39, REFUSED),
    "beyond float32, wide": Case(WIDE, 1e39, REFUSED),
    "beyond float32, wide, below": Case(WIDE, -1e39, REFUSED),
    "huge int": Case(FREE, 10**400, REFUSED),
    "large int": Case(FREE, 2**62, 2.0**62),
    "least": Case(BOUNDED, 0.1, 0.10000000149011612),
    "most": Case(BOUNDED, 10, 10.0),
    "below": Case(BOUNDED, 0.09999999999, REFUSED),
    "above": Case(BOUNDED, 10.000001, REFUSED),
    "below in float32": Case(BOUNDED, 0.0999, REFUSED, pa.float32()),
    "whole": Case(HOUR, 7, 7.0),
    "whole as float": Case(HOUR, 7.0, 7.0),
    "not whole": Case(HOUR, 7.5, REFUSED),
    "almost whole": Case(HOUR, 7.000000001, REFUSED),
    "not whole, free": Case(WHOLE, -2.5, REFUSED),
    "whole and large": Case(WHOLE, 1e30, 1.0000000150474662e30),
    "whole, too large": Case(WHOLE, 1e39, REFUSED),
    "whole, above": Case(HOUR, 24, REFUSED),
    "whole, below": Case(HOUR, -1, REFUSED),
    "first": Case(CLOSED, "a", 1),
    "second": Case(CLOSED, "b", 2),
    "dictionary": Case(CLOSED, "b", 2, pa.dictionary(pa.int32(), pa.string())),
    "large text": Case(CLOSED, "b", 2, pa.large_string()),
    "unlisted": Case(CLOSED, "c", REFUSED),
    "unlisted, nullable": Case(CLOSED_NULLABLE, "c", REFUSED),
    "other case": Case(CLOSED, "A", REFUSED),
    "empty": Case(CLOSED, "", REFUSED),
    "unlisted, open": Case(OPEN, "c", 0),
    "empty, open": Case(OPEN, "", 0),
    "no category": Case(CLOSED, None, REFUSED),
    "no category, open": Case(OPEN, None, REFUSED, pa.string()),
    "no category, nullable": Case(CLOSED_NULLABLE, None, 0, pa.string()),
    "no category, open, nullable": Case(OPEN_NULLABLE, None, 0),
    "number for a category": Case(NUMERIC, 1, REFUSED),
    "number for an open category": Case(OPEN, 1, REFUSED),
    "bool for an open category": Case(OPEN, True, REFUSED),
}


EXCEPT: dict[tuple[str, str], Any] = {
    # A frame of features has NaN where a computation had nothing to compute with.
    ("NaN, nullable", "training"): math.nan,
}
"""(case, way) → what that way makes of it instead"""


def _json(case: Case, form: str) -> Any:
    signature = _signature(case.given)
    rows = [{"x": case.value}] if form == "rows" else {"x": [case.value]}
    inputs = Parser(signature, 10).parse(JSON, json.dumps({form: rows}).encode())
    return _only(signature, inputs.numbers, inputs.categories)


def _rows(case: Case, folder: Path) -> Any:
    return _json(case, "rows")


def _columns(case: Case, folder: Path) -> Any:
    return _json(case, "columns")


def _values(case: Case, folder: Path) -> Any:
    signature, rows = _signature(case.given), [{"x": case.value}]
    if errors := Validator(signature).errors(rows):
        raise Refusal(422, errors[0].message)
    return _only(signature, *Coder(signature).rows(rows))


def _arrow(case: Case, folder: Path) -> Any:
    signature = _signature(case.given)
    body = write({"x": _array(case)})  # pyrefly: ignore[bad-argument-type]
    inputs = Parser(signature, 10).parse(ARROW, body)
    return _only(signature, inputs.numbers, inputs.categories)


def _batch(case: Case, folder: Path) -> Any:
    signature = _signature(case.given)
    pq.write_table(pa.table({"x": _array(case)}), folder / "rows.parquet")
    (table,) = Source(folder / "rows.parquet", signature).tables(10)
    (numbers, categories), errors = ArrowDecoder(signature).encode(table)
    if errors:
        raise Refusal(422, errors[0].message)
    return _only(signature, numbers, categories)


def _training(case: Case, folder: Path) -> Any:
    signature = _signature(case.given)
    table = pa.table({"x": _array(case), "y": [1.0]})
    pq.write_table(table, folder / "valid.parquet")
    features = folder / "2026-01.parquet"
    write_features(folder / "valid.parquet", features, lambda rows: rows, signature)
    return _only(signature, *encode(pl.read_parquet(features), signature))


WAYS: dict[str, Callable[[Case, Path], Any]] = {
    "rows": _rows,
    "columns": _columns,
    "values": _values,
    "arrow": _arrow,
    "batch": _batch,
    "training": _training,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", CASES)
def test_every_way_makes_the_same_of_a_value(name: str, way: str, tmp_path: Path) -> None:
    case = CASES[name]
    expected = EXCEPT.get((name, way), case.expected)
    try:
        found = WAYS[way](case, tmp_path)
    except Inexpressible:
        pytest.skip("no Arrow array holds such a value")
    except (Refusal, UserError):
        found = REFUSED
    assert found == expected or found != found and expected != expected


class Inexpressible(Exception):
    pass


def _array(case: Case) -> pa.Array:
    try:
        return pa.array([case.value], case.kind)
    except (OverflowError, pa.ArrowException):
        raise Inexpressible from None


def _signature(given: Input) -> Signature:
    return Signature(task="regression", target="y", inputs=(given,))


def _only(signature: Signature, numbers: Any, categories: Any) -> Any:
    used, other = (numbers, categories) if signature.numbers else (categories, numbers)
    assert used.shape == (1, 1) and other.shape == (1, 0)
    return used.item()
