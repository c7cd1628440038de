"""Scores by a registered version: the asset `predictions`.

The rows are checked and scored by `modelyard score` in a process of its own, so that
there is one contract, and nothing of serving in this room.
"""

import json
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import polars.selectors as cs

from modelyard.cli import script
from modelyard.documents import Signature, UserError
from modelyard.pipeline.config.settings import PredictionSettings
from modelyard.pipeline.evaluation.champion import find_champion
from modelyard.pipeline.orchestration.assets import Results, partitions_done, partitions_of
from modelyard.pipeline.orchestration.prediction_checks import ASSET, CHECKS, QUARANTINE, checked
from modelyard.pipeline.storage.workspace import Workspace
from modelyard.pipeline.tracking.registry import fetch

__all__ = ["CHECKS", "GROUP", "Predict", "predict"]

GROUP = "predictions"
"""of the asset; `make train` leaves it out"""


class Predict(dg.Config):
    """How the asset is run."""

    version: int = 0
    """0: the one that serves"""


def predict(
    context: dg.AssetExecutionContext,
    workspace: Workspace,
    features: Callable[[pl.LazyFrame], pl.LazyFrame],
    signature: Signature,
    settings: PredictionSettings,
    how: Predict,
) -> Results:
    """valid → predictions and their quarantine, and the checks of both, over all partitions.

    Raises:
        UserError: there is no version to predict with, a partition has no valid rows, or the
            package does not take what features() gives.
    """
    version = choose(workspace, how.version)
    figures: dict[str, dict[str, Any]] = {}
    for month in partitions_of(context):
        counts = _predict(workspace, month, features, signature.target, version)
        figures[month] = {
            "dagster/row_count": counts["scored"],
            "quarantined": counts["quarantined"],
            "first_reason": counts["reason"],
            "version": version,
            "content": counts["content"],
        }
    scored = sum(numbers["dagster/row_count"] for numbers in figures.values())
    text = f"{scored:,} rows of {_span([*figures])} by version {version}"
    yield partitions_done(context, ASSET, text, figures)
    reasons = {month: numbers["first_reason"] for month, numbers in figures.items()}
    yield from checked(workspace, workspace.registered(version), reasons, settings)


def choose(workspace: Workspace, version: int) -> int:
    """The version, its package at hand; of 0, the champion's (`find_champion`).

    Raises:
        UserError: there is none, or none of this number.
    """
    if not version:
        champion, why = find_champion(workspace)
        if champion is None:
            raise UserError(
                f"no version to predict with{why}. Run `make train` and `make release`, or "
                "choose a registered one with VERSION=N"
            )
        version = champion
    if not workspace.registered(version).exists():
        fetch(workspace, workspace.project()["name"], version)
    return version


def _predict(
    workspace: Workspace,
    month: str,
    features: Callable[[pl.LazyFrame], pl.LazyFrame],
    target: str,
    version: int,
) -> dict[str, Any]:
    """One partition; what it was before stays until the new one is whole."""
    valid = workspace.partition("valid", month)
    if not valid.exists():
        raise UserError(f"{month} has no valid rows yet: run `make predict PARTITIONS={month}`")
    output, quarantine = (workspace.partition(stage, month) for stage in (ASSET, QUARANTINE))
    for path in (output, quarantine):
        path.parent.mkdir(parents=True, exist_ok=True)
    # In the state folder: a temporary one in memory would be as large as the partition.
    with tempfile.TemporaryDirectory(prefix=".predict-", dir=workspace.state) as folder:
        rows = Path(folder) / f"{month}.parquet"
        # What is known afterwards has no place beside a prediction.
        plan = features(pl.scan_parquet(valid)).select(pl.all().exclude(target))
        plan.with_columns(cs.float().fill_nan(None)).sink_parquet(rows, engine="streaming")
        done = subprocess.run(
            [script(), "score", workspace.registered(version), rows, output,
             "--quarantine", quarantine, "--max-quarantined-share", "1", "--json"],
            capture_output=True, text=True,
        )  # fmt: skip
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2].removeprefix("error: ")
        said = last.replace(str(rows), f"features of {month}")
        raise UserError(f"{ASSET}: version {version}: {said or 'the process was killed'}")
    return json.loads(done.stdout)


def _span(months: list[str]) -> str:
    return months[0] + (f" to {months[-1]}" if len(months) > 1 else "")
