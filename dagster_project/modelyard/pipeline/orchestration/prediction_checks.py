"""What a partition of predictions is checked for."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import dagster as dg
import numpy as np
import polars as pl

from modelyard.documents.package import REFERENCE, SCORE, read_signature, score_columns
from modelyard.pipeline.config.settings import PredictionSettings
from modelyard.pipeline.data.content import rows_in
from modelyard.pipeline.storage.workspace import Workspace

ASSET, QUARANTINE = "predictions", "predictions_quarantine"
"""the asset, and the stage of the rows that were not scored"""
EVERY_ROW, SHARE, SHIFT = "every_row", "quarantined_share", "score_shift"
CHECKS = [
    dg.AssetCheckSpec(
        EVERY_ROW, asset=ASSET, blocking=True,
        description="Each valid row is scored or in quarantine.",
    ),
    dg.AssetCheckSpec(
        SHARE, asset=ASSET, blocking=True,
        description="Few enough rows do not fit the model's signature.",
    ),
    dg.AssetCheckSpec(
        SHIFT, asset=ASSET,
        description="The scores are distributed as those of the package's reference rows.",
    ),
]  # fmt: skip
BINS = 10
LEAST_SHARE = 1e-4
"""of a bin, so that an empty one has a logarithm"""


class RowCounts(NamedTuple):
    """Of one partition, as its files hold them."""

    valid: int
    scored: int
    quarantined: int

    @property
    def share(self) -> float:
        return self.quarantined / max(1, self.scored + self.quarantined)


def checked(
    workspace: Workspace, package: Path, reasons: Mapping[str, str], settings: PredictionSettings
) -> Iterator[dg.AssetCheckResult]:
    """The checks over all partitions of a run; each tells of the worst.

    Args:
        reasons: of each month, why its first row in quarantine is there.
    """
    stages = ("valid", ASSET, QUARANTINE)
    rows = {
        month: RowCounts(*(rows_in([workspace.partition(stage, month)]) for stage in stages))
        for month in reasons
    }
    yield _every_row(rows)
    yield _share(rows, reasons, settings.max_quarantined_share)
    columns = score_columns(read_signature(package))
    reference = pl.read_parquet(package / REFERENCE, columns=columns)
    shifts = {
        month: shift(reference, pl.scan_parquet(workspace.partition(ASSET, month)))
        for month in rows
        if rows[month].scored
    }
    yield _shift(shifts, settings.max_score_shift)


def _every_row(rows: Mapping[str, RowCounts]) -> dg.AssetCheckResult:
    read = sum(one.valid for one in rows.values())
    text = f"{read:,} valid rows, none is lost"
    lost = [m for m, one in rows.items() if one.valid != one.scored + one.quarantined]
    if lost:
        one = rows[lost[0]]
        text = (
            f"{lost[0]}: {one.scored:,} scored and {one.quarantined:,} in quarantine of "
            f"{one.valid:,} valid rows: features() must give a row for each"
        )
    return dg.AssetCheckResult(
        asset_key=ASSET, check_name=EVERY_ROW, passed=not lost, description=text,
        metadata={"rows": read},
    )  # fmt: skip


def _share(
    rows: Mapping[str, RowCounts], reasons: Mapping[str, str], limit: float
) -> dg.AssetCheckResult:
    worst = max(rows, key=lambda month: rows[month].share)
    _, scored, bad = rows[worst]
    share = rows[worst].share
    text = f"{worst}: {bad:,} of {scored + bad:,} rows ({share:.2%}) do not fit the signature"
    if share > limit:
        text += (
            f", more than predictions.max_quarantined_share ({limit:.2%}): "
            f"{reasons[worst]}. See .modelyard/data/{QUARANTINE}/{worst}.parquet"
        )
    return dg.AssetCheckResult(
        asset_key=ASSET, check_name=SHARE, passed=share <= limit, description=text,
        metadata={"worst_share": share, "limit": limit},
    )  # fmt: skip


def _shift(shifts: Mapping[str, float], limit: float) -> dg.AssetCheckResult:
    worst = max(shifts, key=lambda month: shifts[month], default="")
    value = shifts.get(worst, 0.0)
    text = f"{worst}: index {value:.3f} against the reference" if shifts else "no scores"
    if value > limit:
        text += f", more than predictions.max_score_shift ({limit:g})"
    return dg.AssetCheckResult(
        asset_key=ASSET, check_name=SHIFT, passed=value <= limit, description=text,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"worst_index": value, "limit": limit, "months": dict(shifts)},
    )  # fmt: skip


def shift(reference: pl.DataFrame, predictions: pl.LazyFrame) -> float:
    """How far the scores are from the reference's: the population stability index.

    Over the deciles of the reference's scores, less what chance alone gives as many rows
    (Yurdakul and Naranjo, "Statistical properties of the population stability index", Journal
    of Risk Model Validation 2020); by custom, 0.1 is a small shift and 0.25 a large one. Of
    several classes, the largest index.

    Args:
        reference: the columns of `score_columns`, no other.
        predictions: has `score`, a number or a list of them.
    """
    several = isinstance(predictions.collect_schema()[SCORE], pl.List)
    found = []
    for place, name in enumerate(reference.columns):
        score = pl.col(SCORE).list.get(place) if several else pl.col(SCORE)
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
