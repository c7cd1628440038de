"""What Dagster loads: the assets of defs/, and the platform's resources."""

from pathlib import Path

import dagster as dg
from modelyard.pipeline.launchers.kubernetes.launcher import launcher
from modelyard.pipeline.orchestration.executor import executor

from .settings import settings


@dg.definitions
def defs() -> dg.Definitions:
    shared = dg.Definitions(
        # On this machine, or in the cluster that config.yaml names.
        resources={"launcher": launcher(settings().kubernetes)},
        executor=executor(),
    )
    assets = dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
    return dg.Definitions.merge(assets, shared)
