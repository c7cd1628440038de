"""Does a value fit an input of the signature? Said of one plain value (int, float, str, None)."""

import math
from collections.abc import Callable
from typing import Any

from modelyard.documents.signature import FLOAT32_MAX, Category, Input, Number

MOST_VALUES = 20
"""of a category that a message lists"""
_NOT_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
"""as JSON's readers write them"""

Check = Callable[[Any], str | None]
"""value → what is wrong with it, None if it fits"""


def checker(field: Input) -> Check:
    """The check of one input, compiled once for many values."""
    return _number_check(field) if isinstance(field, Number) else _category_check(field)


def kind_of(value: Any) -> str:
    """A value's type, in JSON's words."""
    names = {type(None): "null", bool: "a boolean", str: "a string", list: "an array"}
    return names.get(type(value), "an object" if isinstance(value, dict) else "a number")


def _number_check(field: Number) -> Check:
    low, high = field.low, field.high
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
            return f"must be a number, not {kind_of(value)}"
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


def _category_check(field: Category) -> Check:
    values = frozenset(field.values)
    listed = ", ".join(field.values[:MOST_VALUES])
    if len(field.values) > MOST_VALUES:
        listed += f" … ({len(field.values)} values, see GET /model)"

    def check(value: Any) -> str | None:
        if value is None:
            return None if field.nullable else "must not be null"
        if type(value) is not str:
            return f"must be a string, not {kind_of(value)}"
        if value not in values and not field.open:
            return f"must be one of {listed}"
        return None

    return check
