"""train and validation set → the best training settings in the space of config.yaml: tune."""

import dagster as dg
from modelyard.pipeline.orchestration import tuning as tune
from modelyard.pipeline.orchestration.executor import pod

from ..features import SIGNATURE
from ..settings import settings, workspace


@dg.asset(
    **pod(cpu="8", memory="16Gi"),
    deps=["train_set", "validation_set"],
    backfill_policy=dg.BackfillPolicy.single_run(),
    group_name=tune.GROUP,
    kinds={"optuna"},
)
def best_configuration(config: tune.Search) -> dg.MaterializeResult:
    """The settings with the lowest validation loss; `make tune` shows them as a change."""
    module = f"{__name__.partition('.')[0]}.train"
    return tune.search(workspace, settings(), module, SIGNATURE, config)
