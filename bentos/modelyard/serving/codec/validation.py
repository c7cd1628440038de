"""From the rows of a request to the graph's two tensors, through the signature."""

import math
from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from modelyard.documents import Signature
from modelyard.documents.signature import Category, Input, Number
from modelyard.serving.codec.errors import MOST_ERRORS, RowError
from modelyard.serving.codec.types import Row

FLOAT32_MAX = float(np.finfo(np.float32).max)
MOST_VALUES = 20
_NOT_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
"""as JSON's readers write them"""


class Encoder:
    """The checks and tables of one signature, compiled once."""

    def __init__(self, signature: Signature) -> None:
        self._checks = {i.name: _check(i) for i in signature.inputs}
        self._numbers = [n.name for n in signature.numbers]
        self._codes = [
            (c.name, {value: code for code, value in enumerate(c.values, start=1)})
            for c in signature.categories
        ]

    def errors(self, rows: list[Any]) -> list[RowError]:
        """What keeps these rows from being scored, at most `MOST_ERRORS`; empty if nothing does."""
        errors: list[RowError] = []
        for index, row in enumerate(rows):
            if type(row) is not dict:
                errors.append(RowError(index, "", f"must be an object, not {_kind(row)}"))
            else:
                if row.keys() != self._checks.keys():
                    errors += self.wrong_names(index, row)
                for name, check in self._checks.items():
                    if name in row and (message := check(row[name])):
                        errors.append(RowError(index, name, message))
            if len(errors) >= MOST_ERRORS:
                return errors[:MOST_ERRORS]
        return errors

    def encode(self, rows: list[Row]) -> tuple[np.ndarray, np.ndarray]:
        """Rows without errors as numbers float32 [N, n] and categories int64 [N, c].

        A missing number is NaN; a missing category, and one that is not listed, is 0.
        """
        numbers = [[np.nan if row[n] is None else row[n] for n in self._numbers] for row in rows]
        categories = [[codes.get(row[name], 0) for name, codes in self._codes] for row in rows]
        return (
            np.array(numbers, dtype=np.float32).reshape(len(rows), len(self._numbers)),
            np.array(categories, dtype=np.int64).reshape(len(rows), len(self._codes)),
        )

    def check(self, name: str, value: Any) -> str | None:
        """What is wrong with a value of this input, if anything is."""
        return self._checks[name](value)

    def wrong_names(self, index: int, row: Collection[str]) -> list[RowError]:
        missing = [name for name in self._checks if name not in row]
        unknown = [name for name in row if name not in self._checks]
        return [
            *(RowError(index, n, "is missing (send null if it is not known)") for n in missing),
            *(RowError(index, n[:100], "is not an input of this model") for n in unknown),
        ]


def _check(field: Input) -> Callable[[Any], str | None]:
    return _number_check(field) if isinstance(field, Number) else _category_check(field)


def _number_check(field: Number) -> Callable[[Any], str | None]:
    low = -FLOAT32_MAX if field.minimum is None else field.minimum
    high = FLOAT32_MAX if field.maximum is None else field.maximum
    if field.minimum is None and field.maximum is None:
        bounds = "must be a finite 32-bit number"
    else:
        parts = [
            f"at least {field.minimum:g}" if field.minimum is not None else "",
            f"at most {field.maximum:g}" if field.maximum is not None else "",
        ]
        bounds = "must be " + " and ".join(p for p in parts if p)

    def check(value: Any) -> str | None:
        if value is None:
            return None if field.nullable else "must not be null"
        if type(value) is not float and type(value) is not int:
            return f"must be a number, not {_kind(value)}"
        if not low <= value <= high:  # NaN is in no range
            return _out_of(bounds, value)
        if field.integer and value != int(value):
            return f"must be a whole number, not {value:g}"
        return None

    return check


def _out_of(bounds: str, value: float) -> str:
    if abs(value) <= FLOAT32_MAX:
        return f"{bounds}, not {value:g}"
    if isinstance(value, float) and not math.isfinite(value):
        return f"is {_NOT_FINITE[str(value)]}; {bounds}"
    return f"is beyond the 32-bit range; {bounds}"


def _category_check(field: Category) -> Callable[[Any], str | None]:
    values = frozenset(field.values)
    listed = ", ".join(field.values[:MOST_VALUES])
    if len(field.values) > MOST_VALUES:
        listed += f" … ({len(field.values)} values, see GET /model)"

    def check(value: Any) -> str | None:
        if value is None:
            return None if field.nullable else "must not be null"
        if type(value) is not str:
            return f"must be a string, not {_kind(value)}"
        if value not in values and not field.open:
            return f"must be one of {listed}"
        return None

    return check


def _kind(value: Any) -> str:
    """A JSON value's type, in JSON's words."""
    names = {type(None): "null", bool: "a boolean", str: "a string", list: "an array"}
    return names.get(type(value), "an object" if isinstance(value, dict) else "a number")
