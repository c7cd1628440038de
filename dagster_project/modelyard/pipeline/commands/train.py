"""Runs the pipeline up to a registered version: what `make train` calls.

    modelyard train [--partitions A...B] [--assets SELECTION]

All partitions and all assets by default. Ctrl-C stops it; the same command goes on.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from modelyard.cli.parser import Parser
from modelyard.pipeline.commands import TRAIN
from modelyard.pipeline.orchestration.run import ALL, alone, materialize
from modelyard.pipeline.storage.workspace import Workspace
from modelyard.pipeline.training.workdir import unfinished


def main(arguments: Sequence[str]) -> int:
    parser = Parser(TRAIN)
    parser.add_argument("--partitions", metavar="A...B", help="months, such as 2013-01...2013-03")
    parser.add_argument(
        "--assets",
        default=ALL,
        help="Dagster asset selection, such as weights or 'key:\"weights\"+' (default: all but "
        "what `make tune` and `make predict` are for)",
    )
    given = parser.parse_args(arguments)
    workspace = Workspace(Path.cwd())
    os.environ.setdefault("DAGSTER_HOME", str(workspace.root / ".dagster"))
    try:
        with alone(workspace):
            materialize(workspace, given.assets, given.partitions)
    except KeyboardInterrupt:
        if unfinished(workspace.training):
            how = "run it again to go on from its last checkpoint"
            raise KeyboardInterrupt(how) from None
        raise
    return 0
