"""What a partition of predictions is checked for."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import polars as pl

from modelyard.pipeline.frames import rows_in
from modelyard.pipeline.settings import PredictionSettings
from modelyard.pipeline.workspace import Workspace

EVERY_ROW, SHARE, SHIFT = "every_row", "quarantined_share", "score_shift"
CHECKS = [
    dg.AssetCheckSpec(
        EVERY_ROW, asset="predictions", blocking=True,
        description="Each valid row is scored or in quarantine.",
    ),
    dg.AssetCheckSpec(
        SHARE, asset="predictions", blocking=True,
        description="Few enough rows do not fit the model's signature.",
    ),
    dg.AssetCheckSpec(
        SHIFT, asset="predictions",
        description="The scores are distributed as those of the package's reference rows.",
    ),
]  # fmt: skip
BINS = 10
LEAST_SHARE = 1e-4
"""of a bin, so that an empty one has a logarithm"""
Figures = Mapping[str, Mapping[str, Any]]


def checked(
    asset: str,
    workspace: Workspace,
    package: Path,
    figures: Figures,
    quarantine: str,
    settings: PredictionSettings,
) -> Iterator[dg.AssetCheckResult]:
    """The checks over all partitions of a run; each tells of the worst.

    Args:
        figures: of each month, among others its `quarantined` rows and the `first_reason`.
        quarantine: the stage of the rows that were not scored.
    """

    def result(name: str, passed: bool, text: str, **told: Any) -> dg.AssetCheckResult:
        return dg.AssetCheckResult(
            asset_key=asset, check_name=name, passed=passed, description=text, metadata=told,
            severity=dg.AssetCheckSeverity.WARN if name == SHIFT else dg.AssetCheckSeverity.ERROR,
        )  # fmt: skip

    rows = {
        month: [
            rows_in([workspace.partition(stage, month)]) for stage in ("valid", asset, quarantine)
        ]
        for month in figures
    }
    lost = {month: (v, s, q) for month, (v, s, q) in rows.items() if v != s + q}
    text = "; ".join(
        f"{month}: {s:,} scored and {q:,} in quarantine of {v:,} valid rows: features() must give "
        "a row for each"
        for month, (v, s, q) in list(lost.items())[:1]
    )
    read = sum(v for v, _, _ in rows.values())
    yield result(EVERY_ROW, not lost, text or f"{read:,} valid rows, none is lost", rows=read)

    worst = max(figures, key=lambda month: rows[month][2] / max(1, sum(rows[month][1:])))
    _, scored, bad = rows[worst]
    share = bad / max(1, scored + bad)
    limit = settings.max_quarantined_share
    text = f"{worst}: {bad:,} of {scored + bad:,} rows ({share:.2%}) do not fit the signature"
    if share > limit:
        text += (
            f", more than predictions.max_quarantined_share ({limit:.2%}): "
            f"{figures[worst]['first_reason']}. See {workspace.partition(quarantine, worst)}"
        )
    yield result(SHARE, share <= limit, text, worst_share=share, limit=limit)

    reference = pl.read_parquet(package / "reference.parquet")
    shifts = {
        month: shift(reference, pl.scan_parquet(workspace.partition(asset, month)))
        for month in figures
        if rows[month][1]
    }
    worst = max(shifts, key=lambda month: shifts[month], default="")
    value, limit = shifts.get(worst, 0.0), settings.max_score_shift
    text = f"{worst}: index {value:.3f} against the reference"
    text += f", more than predictions.max_score_shift ({limit:g})" if value > limit else ""
    yield result(SHIFT, value <= limit, text, worst_index=value, limit=limit, months=shifts)


def shift(reference: pl.DataFrame, predictions: pl.LazyFrame) -> float:
    """How far the scores are from the reference's: the population stability index.

    Over the deciles of the reference's scores, less what chance alone gives as many rows
    (Yurdakul and Naranjo, "Statistical properties of the population stability index", Journal
    of Risk Model Validation 2020); by custom, 0.1 is a small shift and 0.25 a large one. Of
    several classes, the largest index.

    Args:
        reference: has `score`, or `score_<class>` in the order of the classes.
        predictions: has `score`, or a list of them.
    """
    names = [name for name in reference.columns if name.startswith("score")]
    several = isinstance(predictions.collect_schema()["score"], pl.List)
    found = []
    for place, name in enumerate(names):
        score = pl.col("score").list.get(place) if several else pl.col("score")
        inner = [reference[name].quantile(q / BINS) for q in range(1, BINS)]
        edges = sorted({edge for edge in inner if edge is not None})
        expected, _ = _shares(reference.lazy(), pl.col(name), edges)
        actual, rows = _shares(predictions, score, edges)
        index = float(((actual - expected) * np.log(actual / expected)).sum())
        chance = len(edges) * (1 / rows + 1 / len(reference))
        found.append(max(0.0, index - chance))
    return max(found)


def _shares(frame: pl.LazyFrame, score: pl.Expr, edges: list[float]) -> tuple[np.ndarray, int]:
    """Shares [B] of the bins between the edges [B - 1], none of them 0; and the rows."""
    below = [(score <= edge).sum().alias(str(place)) for place, edge in enumerate(edges)]
    *counts, rows = frame.select(*below, rows=pl.len()).collect(engine="streaming").row(0)
    return np.maximum(np.diff([0, *counts, rows]) / rows, LEAST_SHARE), rows
