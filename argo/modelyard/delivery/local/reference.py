"""How far a version's scores spread, by the `reference.parquet` of its model package.

Scores under live traffic are counted in a histogram with these edges, and two scores of one
request are held apart by this spread. Both are fixed before the first request comes in, so
that no count changes its meaning later, also not after a restart.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from modelyard.documents import UserError
from modelyard.documents.metrics import SCORE_LEVELS
from modelyard.documents.package import REFERENCE, read_signature, score_columns


@dataclass(frozen=True)
class Reference:
    """Of the stable version, for both."""

    edges: tuple[float, ...]
    """upper edges of a histogram of scores, ascending; the last is inf"""
    spread: float
    """standard deviation of the scores (of several classes: root of the summed variances)"""

    def histogram(self, scores: Iterable[float]) -> np.ndarray:
        """Scores by bucket, int64 [len(edges)]; what is no number is above all edges."""
        values = np.fromiter(scores, dtype=float)
        places = np.searchsorted(self.edges[:-1], values, side="left")
        return np.bincount(places, minlength=len(self.edges))


def read_reference(package: Path) -> Reference:
    """The edges and the spread of a model package: twentieths of a probability, or the
    twentieths of a regression's values.

    Raises:
        UserError: there is no package, or not with scores.
    """
    import polars as pl

    try:
        signature = read_signature(package)
        columns = score_columns(signature)
        scores = pl.read_parquet(package / REFERENCE, columns=columns).to_numpy()
    except (OSError, ValidationError, pl.exceptions.PolarsError) as error:
        raise _no(package, "scores", error) from None
    scores = scores[np.isfinite(scores).all(axis=1)]
    if not len(scores):
        raise UserError(f"model package {package}: no reference scores in {REFERENCE}")
    levels = SCORE_LEVELS[:-1]
    inner = np.quantile(scores, levels) if signature.task == "regression" else levels
    edges = sorted({round(float(edge), 9) for edge in inner})
    spread = math.sqrt(float(np.var(scores, axis=0).sum()))
    return Reference(edges=(*edges, math.inf), spread=spread)


def reference_rows(package: Path, most: int) -> list[dict[str, Any]]:
    """Inputs of some rows of a model package's `reference.parquet`.

    Raises:
        UserError: there is no package, or not with rows.
    """
    import polars as pl

    try:
        signature = read_signature(package)
        columns = [each.name for each in signature.inputs]
        rows = pl.read_parquet(package / REFERENCE, columns=columns, n_rows=most)
    except (OSError, ValidationError, pl.exceptions.PolarsError) as error:
        raise _no(package, "rows", error) from None
    return rows.to_dicts()


def _no(package: Path, what: str, error: Exception) -> UserError:
    why = str(error).splitlines()[0]
    return UserError(f"model package {package}: no reference {what}: {why}")


def one_number(score: Sequence[float]) -> float:
    """Of several classes, the likeliest one's."""
    return max(score, default=math.nan) if all(map(math.isfinite, score)) else math.nan
