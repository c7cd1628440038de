"""Runs the pipeline up to a registered version: what `make train` calls.

    python -m modelyard.pipeline.commands.train [--partitions A...B] [--assets SELECTION]

All partitions and all assets by default. Ctrl-C stops it; the same command goes on.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from modelyard.documents import UserError
from modelyard.pipeline.orchestration.run import ALL, alone, materialize
from modelyard.pipeline.storage.workspace import Workspace
from modelyard.pipeline.training.workdir import unfinished


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m modelyard.pipeline.commands.train",
        description="Run the pipeline up to a registered model version.",
    )
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
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        goes_on = unfinished(workspace.training)
        then = "; run it again to go on from its last checkpoint" if goes_on else ""
        print(f"interrupted{then}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
