"""Searches the training settings of `tune:` in config.yaml: what `make tune` calls.

    modelyard tune [--trials N] [--workers N] [--apply]

The data first, as `make train` does, then an Optuna study with as many trials as are still
missing. It ends with the change to config.yaml, which `--apply` writes. Ctrl-C stops it; the
same command goes on.
"""

import argparse
import difflib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from modelyard.cli.parser import Parser
from modelyard.documents.files import replaced
from modelyard.pipeline.commands import TUNE
from modelyard.pipeline.config.edit import changed
from modelyard.pipeline.orchestration.run import alone, materialize
from modelyard.pipeline.orchestration.tuning import ASSET
from modelyard.pipeline.storage.workspace import Workspace
from modelyard.pipeline.tuning.search import BEST


def main(arguments: Sequence[str]) -> int:
    parser = Parser(TUNE)
    parser.add_argument("--trials", type=_count, default=0, help="instead of tune.trials")
    parser.add_argument("--workers", type=_count, default=1, help="trials at the same time")
    parser.add_argument("--apply", action="store_true", help="write the best into config.yaml")
    given = parser.parse_args(arguments)
    workspace = Workspace(Path.cwd())
    os.environ.setdefault("DAGSTER_HOME", str(workspace.root / ".dagster"))

    how = {"trials": given.trials, "workers": given.workers}
    try:
        with alone(workspace):
            materialize(workspace, f'+key:"{ASSET}"', config={ASSET: how})
            show(workspace, given.apply)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("`make tune` goes on with the study") from None
    return 0


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: give 1 at least")
    return number


def show(workspace: Workspace, apply: bool) -> None:
    """The best configuration as a change to config.yaml; `apply` writes it."""
    path = workspace.root / "config.yaml"
    best = json.loads((workspace.state / "tune" / BEST).read_text())
    before = path.read_text()
    after = changed(before, "training", best["values"])
    if after == before:
        print("config.yaml has the best configuration already")
        return
    lines = difflib.unified_diff(
        before.splitlines(), after.splitlines(), "config.yaml", "config.yaml", n=1, lineterm=""
    )
    print("\n".join(lines))
    if not apply:
        print("config.yaml is as it was; `make tune ARGS=--apply` writes this change")
        return
    with replaced(path) as new:
        new.write_text(after)
        new.chmod(path.stat().st_mode & 0o777)
    print("config.yaml is changed; `make train` trains with it")
