"""train and validation set → the best weights, by torchrun."""

import dagster as dg
from modelyard.pipeline.launchers.local import TorchLauncher
from modelyard.pipeline.orchestration import assets
from modelyard.pipeline.orchestration.executor import pod

from ..features import SIGNATURE
from ..settings import settings, workspace


@dg.asset(
    # The ranks run in this pod, unless config.yaml has `kubernetes:`.
    **pod(cpu="4", memory="8Gi"),
    deps=["train_set", "validation_set"],
    backfill_policy=dg.BackfillPolicy.single_run(),
    group_name="model",
    kinds={"torch"},
)
def weights(context: dg.AssetExecutionContext, launcher: TorchLauncher) -> dg.MaterializeResult:
    """The network's weights at its lowest validation loss (train.py)."""
    module = f"{__name__.partition('.')[0]}.train"
    return assets.train(context, launcher, module, workspace, settings().training, SIGNATURE)
