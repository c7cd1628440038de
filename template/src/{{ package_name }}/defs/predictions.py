"""valid rows → scores by the version that serves, month by month: make predict."""

import dagster as dg
from modelyard.pipeline.orchestration import assets
from modelyard.pipeline.orchestration import predictions as batch
from modelyard.pipeline.orchestration.executor import pod

from ..features import SIGNATURE, features
from ..settings import settings, workspace
from .data import MONTHLY


@dg.asset(
    **MONTHLY,
    **pod(cpu="2", memory="4Gi"),
    deps=["valid", "deployed_version"],
    check_specs=batch.CHECKS,
    group_name=batch.GROUP,
    kinds={"polars", "parquet"},
)
def predictions(context: dg.AssetExecutionContext, config: batch.Predict) -> assets.Results:
    """Each valid row's features with its score, and the version that gave it."""
    how = settings().predictions
    yield from batch.predict(context, workspace, features, SIGNATURE, how, config)
