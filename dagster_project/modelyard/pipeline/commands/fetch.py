"""Brings a registered version's package back to `.modelyard/packages/N`.

    python -m modelyard.pipeline.commands.fetch N

It prints the folder, which is verified, and replaced where it was there.
"""

import argparse
import sys
from pathlib import Path

from modelyard.documents import UserError
from modelyard.pipeline.storage.workspace import Workspace
from modelyard.pipeline.tracking.registry import fetch


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m modelyard.pipeline.commands.fetch",
        description="Bring a registered version's package back.",
    )
    parser.add_argument("version", type=int, metavar="N")
    version = parser.parse_args().version
    try:
        workspace = Workspace(Path.cwd())
        print(fetch(workspace, workspace.project()["name"], version))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
