"""Brings a registered version's package back to `.modelyard/packages/N`.

    modelyard fetch N

It prints the folder, which is verified, and replaced where it was there.
"""

from collections.abc import Sequence
from pathlib import Path

from modelyard.cli.parser import Parser
from modelyard.pipeline.commands import FETCH
from modelyard.pipeline.storage.workspace import Workspace
from modelyard.pipeline.tracking.registry import fetch


def main(arguments: Sequence[str]) -> int:
    parser = Parser(FETCH)
    parser.add_argument("version", type=int, metavar="N")
    version = parser.parse_args(arguments).version
    workspace = Workspace(Path.cwd())
    print(fetch(workspace, workspace.project()["name"], version))
    return 0
