"""evaluated model → model package → registered version → what serves users now."""

import dagster as dg
from modelyard.pipeline.orchestration import assets

from ..features import SIGNATURE
from ..settings import settings, workspace


@dg.asset(
    deps=["exported_model", "evaluation"],
    backfill_policy=dg.BackfillPolicy.single_run(),
    group_name="delivery",
    kinds={"torch"},
)
def model_package() -> dg.MaterializeResult:
    """Model, signature, manifest, reference rows and model card, verified by hash."""
    return assets.build_package(workspace, settings(), SIGNATURE)


@dg.asset(
    deps=["model_package"],
    backfill_policy=dg.BackfillPolicy.single_run(),
    group_name="delivery",
    kinds={"mlflow"},
)
def model_version() -> dg.MaterializeResult:
    """The package as a version of the model registry."""
    return assets.register(workspace)


@dg.asset(
    deps=["model_version"],
    backfill_policy=dg.BackfillPolicy.single_run(),
    group_name="delivery",
    kinds={"bentoml", "envoy"},
)
def deployed_version() -> dg.MaterializeResult:
    """What serves users now, by the newest release record."""
    return assets.show_deployment(workspace)


@dg.sensor(
    target=deployed_version,
    minimum_interval_seconds=15,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def releases() -> dg.SensorResult:
    """Shows a release as soon as its record tells of it."""
    return assets.watch_releases(workspace)
