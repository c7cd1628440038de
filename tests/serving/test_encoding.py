"""The contract at the door: what is refused, with which words, and how the rest is encoded."""

import math

import numpy as np
import pytest

from modelyard.coding import Coder
from modelyard.documents import Signature
from modelyard.documents.signature import Category, Number
from modelyard.serving.codec.errors import MOST_ERRORS
from modelyard.serving.codec.validation import Validator

SIGNATURE = Signature(
    task="regression",
    target="t",
    inputs=(
        Number(name="free"),
        Category(name="open", values=("a", "b"), open=True, nullable=True),
        Number(name="hour", integer=True, minimum=0, maximum=23, nullable=True),
        Category(name="closed", values=("x",)),
    ),
)
CODER, VALIDATOR = Coder(SIGNATURE), Validator(SIGNATURE)
GOOD = {"free": 1.5, "open": "b", "hour": 7, "closed": "x"}


def test_columns_have_the_order_of_the_signature() -> None:
    shuffled = {"closed": "x", "hour": 7, "open": "b", "free": 1.5}
    numbers, categories = CODER.rows([GOOD, shuffled])
    assert numbers.dtype == np.float32 and categories.dtype == np.int64
    assert numbers.tolist() == [[1.5, 7], [1.5, 7]]
    assert categories.tolist() == [[2, 1], [2, 1]]


def test_missing_is_nan_or_0_and_unlisted_is_0() -> None:
    rows = [GOOD | {"open": None, "hour": None}, GOOD | {"open": "zebra"}]
    assert VALIDATOR.errors(rows) == []
    numbers, categories = CODER.rows(rows)
    assert math.isnan(numbers[0, 1]) and categories[:, 0].tolist() == [0, 0]


def test_a_signature_of_numbers_alone_encodes() -> None:
    coder = Coder(Signature(task="regression", target="t", inputs=(Number(name="x"),)))
    numbers, categories = coder.rows([{"x": 1}, {"x": 2}])
    assert numbers.shape == (2, 1) and categories.shape == (2, 0)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("free", None, "must not be null"),
        ("free", "1.5", "must be a number, not a string"),
        ("free", True, "must be a number, not a boolean"),
        ("free", [1], "must be a number, not an array"),
        ("free", {}, "must be a number, not an object"),
        ("free", math.nan, "is NaN; must be a finite 32-bit number"),
        ("free", math.inf, "is Infinity; must be a finite 32-bit number"),
        ("free", 1e39, "is beyond the 32-bit range; must be a finite 32-bit number"),
        ("free", -(10**400), "is beyond the 32-bit range; must be a finite 32-bit number"),
        ("hour", 24, "must be at least 0 and at most 23, not 24"),
        ("hour", -1, "must be at least 0 and at most 23, not -1"),
        ("hour", math.nan, "is NaN; must be at least 0 and at most 23"),
        ("hour", -math.inf, "is -Infinity; must be at least 0 and at most 23"),
        ("hour", 7.5, "must be a whole number, not 7.5"),
        ("open", 3, "must be a string, not a number"),
        ("open", False, "must be a string, not a boolean"),
        ("closed", None, "must not be null"),
        ("closed", "y", "must be one of x"),
    ],
)
def test_each_bad_value_is_named(field: str, value: object, message: str) -> None:
    assert VALIDATOR.errors([GOOD, GOOD | {field: value}]) == [(1, field, message)]


def test_names_that_are_missing_or_unknown() -> None:
    row = {"free": 1, "open": "a", "hour": 1, "close": "x"}
    assert [(e.field, e.message) for e in VALIDATOR.errors([row])] == [
        ("closed", "is missing (send null if it is not known)"),
        ("close", "is not an input of this model"),
    ]


def test_a_row_that_is_no_object() -> None:
    assert VALIDATOR.errors([[1]]) == [(0, "", "must be an object, not an array")]


def test_the_list_of_errors_has_an_end() -> None:
    assert len(VALIDATOR.errors([{}] * 1000)) == MOST_ERRORS


def test_whole_numbers_may_be_written_as_floats() -> None:
    assert VALIDATOR.errors([GOOD | {"hour": 7.0, "free": 10**20}]) == []
    assert CODER.rows([GOOD | {"free": 10**20}])[0][0, 0] == np.float32(1e20)
