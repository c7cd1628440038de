"""What Dagster loads: the assets of defs/, and the platform's resources."""

from pathlib import Path

import dagster as dg
from modelyard.pipeline.launcher import TorchLauncher


@dg.definitions
def defs() -> dg.Definitions:
    shared = dg.Definitions(
        resources={"launcher": TorchLauncher()},
        # Steps take seconds; a process for each of them would take as long again.
        executor=dg.in_process_executor,
    )
    assets = dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
    return dg.Definitions.merge(assets, shared)
