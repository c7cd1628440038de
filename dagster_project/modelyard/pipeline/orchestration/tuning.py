"""The asset of the best training settings, as Dagster sees it; the work is in `tuning`."""

from collections.abc import Callable
from typing import Any

import dagster as dg

from modelyard.documents import Signature
from modelyard.pipeline.config.settings import Settings
from modelyard.pipeline.orchestration.assets import done, table
from modelyard.pipeline.storage.workspace import Workspace
from modelyard.pipeline.tuning.search import Found, find

ASSET = "best_configuration"
GROUP = "search"
"""of the asset; `make train` leaves it out"""


class Search(dg.Config):
    """How the asset is run."""

    trials: int = 0
    """0: as many as config.yaml says"""
    workers: int = 1


def search(
    workspace: Workspace,
    given: Settings[Any],
    module: str,
    signature: Signature,
    how: Search,
) -> dg.MaterializeResult:
    """train and validation set → the training settings with the lowest validation loss.

    Raises:
        UserError: config.yaml has no `tune:`, trainings failed by themselves, or the database did.
    """
    found = find(workspace, given, module, signature, how.trials, how.workers, _observer())
    return _result(found)


def _observer() -> Callable[[int, float], None]:
    """What shows a trial that has ended as an observation of the asset."""
    try:
        context = dg.AssetExecutionContext.get()
    except dg.DagsterInvariantViolationError:  # called outside of a run
        return lambda *_: None

    def observe(trial: int, loss: float) -> None:
        figures = {"trial": trial, "validation_loss": loss}
        context.log_event(dg.AssetObservation(ASSET, metadata=figures))

    return observe


def _result(found: Found) -> dg.MaterializeResult:
    text = (
        f"validation loss {found.validation_loss:.4f} in trial {found.trial} of {found.complete} "
        f"whole and {found.pruned} stopped ones"
    )
    if found.current_loss is not None:
        text += f"; {found.current_loss:.4f} with config.yaml as it is"
    return done(
        ASSET, text, validation_loss=found.validation_loss, study=found.study,
        values=dg.MetadataValue.json(found.values), trials=table(found.trials),
        pictures=dg.MetadataValue.path(found.folder),
    )  # fmt: skip
