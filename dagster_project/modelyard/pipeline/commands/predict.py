"""Scores months, or a file, by a registered version: what `make predict` calls.

    modelyard predict [--version N] [--partitions A...B]
    modelyard predict [--version N] --input FILE --output FILE

All months by default, by the version that serves.
"""

import argparse
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from modelyard.cli import script
from modelyard.cli.parser import Parser
from modelyard.documents import UserError
from modelyard.pipeline.commands import PREDICT
from modelyard.pipeline.orchestration.prediction_checks import ASSET
from modelyard.pipeline.orchestration.predictions import choose
from modelyard.pipeline.storage.workspace import Workspace


def main(arguments: Sequence[str]) -> int:
    parser = Parser(PREDICT)
    parser.add_argument("--version", type=int, default=0, help="default: the one that serves")
    parser.add_argument("--partitions", metavar="A...B", help="months; default: all")
    parser.add_argument("--input", type=Path, help="a file or folder instead of months")
    parser.add_argument("--output", type=Path, help="Parquet file")
    given = parser.parse_args(arguments)
    workspace = Workspace(Path.cwd())
    if given.input or given.output:
        return _file(workspace, given)
    _months(workspace, given.partitions, given.version)
    return 0


def _file(workspace: Workspace, given: argparse.Namespace) -> int:
    if not (given.input and given.output) or given.partitions:
        raise UserError("a file is scored with INPUT=… and OUTPUT=…, and without PARTITIONS=…")
    package = workspace.registered(choose(workspace, given.version))
    return subprocess.run([script(), "score", package, given.input, given.output]).returncode


def _months(workspace: Workspace, partitions: str | None, version: int) -> None:
    """Materialise the asset; the data before it, too, where a month has none yet."""
    from modelyard.pipeline.orchestration.run import alone, materialize, months_of

    os.environ.setdefault("DAGSTER_HOME", str(workspace.root / ".dagster"))
    with alone(workspace):
        # Before Dagster's run, which would leave the asset's checks as failed.
        version = choose(workspace, version)
        chosen = months_of(workspace, ASSET, partitions)
        there = all(workspace.partition("valid", month).exists() for month in chosen)
        assets = f'key:"{ASSET}"' if there else f'key:"{ASSET}" or +key:"valid"'
        config = {ASSET: {"version": version}}
        materialize(workspace, assets, partitions, config)
