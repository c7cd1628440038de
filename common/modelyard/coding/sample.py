"""Values drawn from a signature alone, which fit it."""

from typing import NamedTuple

import numpy as np

from modelyard.coding.coder import Arrays, Coder
from modelyard.documents import Signature
from modelyard.documents.signature import Category, Input, Number

MISSING = 0.1
"""share of the values of a nullable input that are missing"""
UNLISTED = 0.05
"""share of the values of an open category that are not listed"""


class Drawn(NamedTuple):
    """Values of one input."""

    values: np.ndarray
    """[N]: float64, int64 of an integer, str (object) of a category"""
    missing: np.ndarray
    """bool [N]: which of the values are not there"""
    place: np.ndarray
    """float64 [N]: where in its range each lies, -1 to 1; 0 for what is missing or not listed"""

    def tolist(self) -> list[float | str | None]:
        pairs = zip(self.values.tolist(), self.missing.tolist(), strict=True)
        return [None if missing else value for value, missing in pairs]


def draw(
    given: Input,
    rows: int,
    random: np.random.Generator,
    missing: float = MISSING,
    unlisted: float = UNLISTED,
) -> Drawn:
    """Values of an input, drawn evenly from its declared range or values.

    Args:
        missing, unlisted: shares of the values, where the input is nullable or open.
    """
    if isinstance(given, Category):
        values, place = _category(given, rows, random, unlisted)
    else:
        values, place = _number(given, rows, random)
    absent = random.random(rows) < missing if given.nullable else np.zeros(rows, dtype=bool)
    return Drawn(values, absent, np.where(absent, 0.0, place))


def draw_arrays(signature: Signature, rows: int, seed: int = 0, missing: float = MISSING) -> Arrays:
    """The same of all inputs, coded."""
    random = np.random.default_rng(seed)
    columns = {i.name: draw(i, rows, random, missing).tolist() for i in signature.inputs}
    drawn = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return Coder(signature).rows(drawn)


def _number(given: Number, rows: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Without bounds -1 to 1; with one of them, as wide."""
    if given.minimum is None:
        low = -1.0 if given.maximum is None else given.high - 2.0
    else:
        low = given.low
    high = low + 2.0 if given.maximum is None else given.high
    place = random.random(rows)
    values = low + place * (high - low)
    if given.integer:
        values = np.clip(values.round(), np.ceil(low), np.floor(high)).astype(np.int64)
    return values, 2 * place - 1


def _category(
    given: Category, rows: int, random: np.random.Generator, unlisted: float
) -> tuple[np.ndarray, np.ndarray]:
    chosen = random.integers(len(given.values), size=rows)
    values = np.array(given.values, dtype=object)[chosen]
    place = 2 * chosen / max(1, len(given.values) - 1) - 1
    if given.open:
        strange = random.random(rows) < unlisted
        values[strange] = _not_listed(given)
        place = np.where(strange, 0.0, place)
    return values, place


def _not_listed(given: Category) -> str:
    text = f"not a {given.name}"
    while text in given.values:
        text += "?"
    return text
