"""Builds a registered version again, from its commit, and holds the packages side by side.

    modelyard reproduce VERSION

Exit code 0: bit by bit the same. 1: they differ, or it could not be built. What builds is the
platform that is installed now; where the version was made with another one, that is said first.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from modelyard.cli import script
from modelyard.cli.parser import Parser
from modelyard.documents import Manifest, ReleaseEvent, UserError, verify_package
from modelyard.pipeline.commands import REPRODUCE, TRAIN
from modelyard.pipeline.storage.workspace import Workspace
from modelyard.pipeline.tracking.mlflow_runs import SWITCH
from modelyard.pipeline.tracking.registry import fetch


def reproduce(
    workspace: Workspace, version: int, tell: Callable[[str], None] = lambda line: None
) -> list[str]:
    """Build `version` again; what differs, a line each, nothing if all is the same.

    The commit is checked out beside the repo, and its pipeline run there with the version's
    champion and number of threads. The source of the data is the one that there is now.

    Raises:
        UserError: the version was not made from a commit, or cannot be built any more.
    """
    folder = workspace.registered(version)
    if not folder.exists():
        fetch(workspace, workspace.project()["name"], version)
    manifest, _, wanted = verify_package(folder)
    if not manifest.git_commit.isalnum() or manifest.git_commit == "uncommitted":
        raise UserError(
            f"version {version} was made from files that no commit holds "
            f"({manifest.git_commit}); commit before `make train` to be able to build it again"
        )
    now = workspace.template_version()
    if now != manifest.template_version:
        tell(
            f"version {version} was made with the platform at {manifest.template_version}; it is "
            f"built again with {now}, which this repo has now. With its own: check out "
            f"{manifest.git_commit[:12]}, then `make setup` and `make reproduce VERSION={version}`"
        )
    with _checkout(workspace, manifest.git_commit, version) as tree:
        _give_source(workspace, tree, manifest)
        _give_champion(workspace, tree, manifest.champion)
        _build(tree, manifest)
        rebuilt, _, found = verify_package(tree.package)
    return [] if found == wanted else _differences(manifest, rebuilt)


@contextmanager
def _checkout(workspace: Workspace, commit: str, version: int) -> Iterator[Workspace]:
    path = workspace.state / "reproduce" / str(version)

    def remove() -> None:
        workspace.git("worktree", "remove", "--force", "--force", str(path))
        shutil.rmtree(path, ignore_errors=True)
        workspace.git("worktree", "prune")

    remove()  # what an interrupted run left, or wrote after that
    workspace.git("worktree", "add", "--detach", str(path), commit)
    if not path.exists():
        raise UserError(f"git has no commit {commit}; fetch it (a shallow clone lacks old ones)")
    try:
        yield Workspace(path)
    finally:
        remove()


def _give_source(workspace: Workspace, tree: Workspace, manifest: Manifest) -> None:
    """A source folder that git does not hold."""
    source = manifest.configuration["data"]["source"]
    here, there = workspace.root / source, tree.root / source
    if source and here.exists() and not there.exists():
        there.parent.mkdir(parents=True, exist_ok=True)
        there.symlink_to(here)


def _give_champion(workspace: Workspace, tree: Workspace, champion: int | None) -> None:
    """The gate's result stands in the model card: the same champion again."""
    if champion is None:
        return
    package = workspace.registered(champion)
    if not package.exists():
        fetch(workspace, workspace.project()["name"], champion)
    tree.registered(champion).parent.mkdir(parents=True)
    tree.registered(champion).symlink_to(package)
    event = ReleaseEvent(
        time=0, release="reproduce", sequence=0, candidate=champion, stable=champion,
        phase="done", weight=100, decision="promoted",
    )  # fmt: skip
    tree.releases.mkdir()
    (tree.releases / "reproduce.jsonl").write_text(event.model_dump_json() + "\n")


def _build(tree: Workspace, manifest: Manifest) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": str(tree.root / "src"),
        "DAGSTER_HOME": str(tree.root / ".dagster"),
        "OMP_NUM_THREADS": manifest.hardware.get("threads", "1"),
    }
    environment.pop("MLFLOW_TRACKING_URI", None)  # nothing of this is to be registered
    environment[SWITCH] = "off"
    command = [script(), TRAIN.name, "--assets", "*model_package"]
    if subprocess.run(command, cwd=tree.root, env=environment).returncode:
        raise UserError(f"commit {manifest.git_commit} can't be built again; see above")


def _differences(old: Manifest, new: Manifest) -> list[str]:
    """The cause first: data and environment, then what followed."""
    was, now = _flat(old.model_dump()), _flat(new.model_dump())
    followed = ("metrics", "files")
    names = sorted(was.keys() | now.keys(), key=lambda name: (name.startswith(followed), name))
    return [
        f"{name}: {was.get(name, 'nothing')} then, {now.get(name, 'nothing')} now"
        for name in names
        if was.get(name) != now.get(name)
    ]


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        nested = isinstance(value, dict)
        flat |= _flat(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return flat


def main(arguments: Sequence[str]) -> int:
    parser = Parser(REPRODUCE, "Exit code 0: the same bit by bit. 1: they differ, or a mistake.")
    parser.add_argument("version", type=int, metavar="VERSION")
    version = parser.parse_args(arguments).version
    differences = reproduce(Workspace(Path.cwd()), version, tell=partial(print, flush=True))
    if not differences:
        print(f"identical: version {version} was built again, bit by bit")
        return 0
    print(f"version {version} was built again, but differs:")
    print("\n".join(f"  {line}" for line in differences))
    return 1
