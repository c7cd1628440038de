"""For a model repo's tests: its contract and features on a few rows, its network on drawn ones."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from modelyard.documents import Signature, UserError
from modelyard.pipeline.data import contract as contracts
from modelyard.pipeline.data.contract import Enforced
from modelyard.pipeline.data.features import checked
from modelyard.pipeline.data.synthetic import draw as draw_rows

if TYPE_CHECKING:
    from modelyard.pipeline.orchestration.project import Project
    from modelyard.pipeline.training.workdir import History

__all__ = ["Enforced", "Trained", "assets", "check_features", "draw_rows", "enforce", "train"]

ROWS = 4000
"""that a network is trained on, and as many that it is validated on"""


def assets(project: "Project[Any]") -> set[str]:
    """The names of all Dagster assets that the definitions load with.

    Raises:
        UserError: config.yaml or model.py has a mistake.
    """
    graph = project.definitions()().resolve_asset_graph()
    return {key.to_user_string() for key in graph.materializable_asset_keys}


def enforce(rows: pl.DataFrame, contract: type) -> Enforced:
    """Rows as `read` gives them → `valid` ones and `quarantined` ones, these with the `reason`."""
    return contracts.enforce(rows, contract, "test")


def check_features(
    valid: pl.DataFrame,
    features: Callable[[pl.LazyFrame], pl.LazyFrame],
    signature: Signature,
) -> pl.DataFrame:
    """Features of valid rows, checked as the pipeline checks them.

    Raises:
        UserError: a declared input is missing, or has values outside its declaration.
    """
    return checked(features(valid.lazy()), signature, "test")


@dataclass(frozen=True)
class Trained:
    """A network after a short training."""

    project: "Project[Any]"
    folder: Path
    settings: Any
    history: "History"
    """`ranks`, `epochs`, `best_validation_loss`, …"""

    def scores(self, rows: pl.DataFrame) -> np.ndarray:
        """By the exported model: [N], or [N, classes]."""
        from modelyard.pipeline.data.tensors import encode

        return self._scorer(*encode(rows, self.project.signature))

    def metrics(self, rows: pl.DataFrame) -> dict[str, float]:
        """Of the exported model's scores against the target.

        Raises:
            UserError: a score is missing, or is no probability where one is due.
        """
        from modelyard.pipeline.evaluation.metrics import metrics

        signature = self.project.signature
        target = rows[signature.target].to_numpy()
        return metrics(signature.task, target, self.scores(rows), signature.classes)

    @cached_property
    def _scorer(self) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        from modelyard.documents.package import MODEL
        from modelyard.pipeline.evaluation.scoring import load
        from modelyard.pipeline.packaging.torch_export import export
        from modelyard.pipeline.training.workdir import WEIGHTS

        network, score = self.project.build_network(self.settings)
        path = self.folder / MODEL
        export(network, score, self.folder / WEIGHTS, self.project.signature, path)
        return load(path)


def train(project: "Project[Any]", folder: Path, **settings: Any) -> Trained:
    """Train by torchrun as `make train` does, on rows drawn from the declared inputs.

    Args:
        settings: of `training:`; the rest are the class's defaults, and small batches.

    Raises:
        UserError: a rank failed; the message says where.
    """
    from modelyard.pipeline.launchers.local import TorchLauncher
    from modelyard.pipeline.launchers.preparation import prepare
    from modelyard.pipeline.training.outcome import failure
    from modelyard.pipeline.training.workdir import read_history

    own = project.settings.model_validate({"batch_rows": 256, **settings})
    data = [folder / f"{name}.parquet" for name in ("train", "validation")]
    for seed, path in enumerate(data, start=1):
        draw_rows(project.signature, ROWS, seed).write_parquet(path)
    work = folder / "work"
    prepare(project.training, work, own, project.signature, *data)
    if code := TorchLauncher(threads=1).torchrun(project.training, work, own, {}):
        raise UserError(failure(work, code))
    return Trained(project, work, own, read_history(work))
