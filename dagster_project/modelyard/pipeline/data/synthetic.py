"""Rows drawn from a signature alone: what a model repo's tests train on, without any source."""

import numpy as np
import polars as pl

from modelyard.coding import sample
from modelyard.documents import Signature
from modelyard.documents.signature import Input, Number


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
        drawn = sample.draw(given, rows, random)
        values = pl.Series(drawn.values.tolist(), dtype=_dtype(given))
        columns[given.name] = values.set(pl.Series(drawn.missing), None)
        signal += drawn.place
    return pl.DataFrame({**columns, signature.target: _target(signature, signal)})


def _dtype(given: Input) -> type[pl.DataType]:
    if isinstance(given, Number):
        return pl.Int64 if given.integer else pl.Float64
    return pl.String


def _target(signature: Signature, signal: np.ndarray) -> np.ndarray:
    if signature.task == "regression":
        return 10 * signal
    share = signal.argsort().argsort() / len(signal)
    return (share * max(2, len(signature.classes))).astype(np.int64)
