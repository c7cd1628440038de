"""Rows drawn from a signature alone: what a model repo's tests train on, without any source."""

import numpy as np
import polars as pl

from modelyard.documents import Signature
from modelyard.documents.signature import Category, Number

MISSING = 0.1
"""share of the rows in which a nullable input is missing"""
UNLISTED = 0.05
"""share of the rows in which an open category has a value that is not listed"""


def draw(signature: Signature, rows: int, seed: int = 0) -> pl.DataFrame:
    """Every declared input and the target, [rows]; the same for the same seed.

    Inputs are drawn evenly from their declared range or values, one by one. The target
    follows from them (a sum over all inputs, cut into classes of equal size), so that a
    network which learns anything at all learns this.
    """
    random = np.random.default_rng(seed)
    columns: dict[str, pl.Series] = {}
    signal = np.zeros(rows)
    for given in signature.inputs:
        values, effect = (
            _category(given, rows, random)
            if isinstance(given, Category)
            else _number(given, rows, random)
        )
        if given.nullable:
            missing = random.random(rows) < MISSING
            values = values.set(pl.Series(missing), None)
            effect = np.where(missing, 0.0, effect)
        columns[given.name] = values
        signal += effect
    return pl.DataFrame({**columns, signature.target: _target(signature, signal)})


def _number(given: Number, rows: int, random: np.random.Generator) -> tuple[pl.Series, np.ndarray]:
    low, high = given.minimum, given.maximum
    if low is None:
        low = -1.0 if high is None else high - 2.0
    if high is None:
        high = low + 2.0
    place = random.random(rows)
    values = low + place * (high - low)
    if given.integer:
        values = np.clip(values.round(), np.ceil(low), np.floor(high))
    return pl.Series(values, dtype=pl.Int64 if given.integer else pl.Float64), 2 * place - 1


def _category(
    given: Category, rows: int, random: np.random.Generator
) -> tuple[pl.Series, np.ndarray]:
    codes = random.integers(len(given.values), size=rows)
    effect = 2 * codes / max(1, len(given.values) - 1) - 1
    values = pl.Series(np.array(given.values, dtype=object)[codes].tolist(), dtype=pl.String)
    if given.open:
        unlisted = random.random(rows) < UNLISTED
        values = values.set(pl.Series(unlisted), f"not a {given.name}")
        effect = np.where(unlisted, 0.0, effect)
    return values, effect


def _target(signature: Signature, signal: np.ndarray) -> np.ndarray:
    if signature.task == "regression":
        return 10 * signal
    share = signal.argsort().argsort() / len(signal)
    return (share * max(2, len(signature.classes))).astype(np.int64)
