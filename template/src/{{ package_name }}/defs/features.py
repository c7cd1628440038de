"""valid → features, month by month; features → train, validation and frozen test set."""

import dagster as dg
from modelyard.pipeline.orchestration import assets
from modelyard.pipeline.orchestration.executor import pod

from ..features import SIGNATURE, features
from ..settings import settings, workspace
from .data import MONTHLY

SETS = {
    "train_set": "Rows of the training months.",
    "validation_set": "Rows that stop the training; later than those of training.",
    "test_set": "Rows of the frozen test months: what two models are compared on.",
}


@dg.asset(
    **MONTHLY,
    **pod(cpu="2", memory="4Gi"),
    name="features",
    deps=["valid"],
    group_name="features",
    kinds={"polars"},
)
def feature_partitions(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """Inputs known before departure, and the target."""
    return assets.make_features(context, workspace, features, SIGNATURE)


@dg.multi_asset(
    specs=[
        *(
            dg.AssetSpec(
                name,
                deps=[feature_partitions],
                description=description,
                group_name="features",
                kinds={"parquet"},
            )
            for name, description in SETS.items()
        ),
        dg.AssetSpec(
            "replay",
            deps=["test_set"],
            description="Held-out inputs that a release replays as traffic.",
            group_name="features",
            kinds={"parquet"},
        ),
    ],
    **pod(cpu="2", memory="4Gi"),
    backfill_policy=dg.BackfillPolicy.single_run(),
)
def split() -> assets.Results:
    yield from assets.make_split(workspace, settings().split, SIGNATURE)
