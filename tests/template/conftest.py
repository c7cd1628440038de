"""The pipeline tests' real flights, and updates of model repos."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from pipeline.conftest import sample
from support import GIT_IDENTITY, ROOT, Once, commit, copier, run

__all__ = ["sample"]


@dataclass
class Updated:
    """How an update ended: its exit status, and what it says by a line each."""

    code: int
    told: list[str]
    wanted: list[str]
    text: str


Update = Callable[..., Updated]


@pytest.fixture(scope="session")
def update() -> Update:
    """`update(repo, yard, "--to", …)`: the platform's own program, as `make update` runs it."""

    def update(repo: Path, yard: Path, *arguments: str) -> Updated:
        done = subprocess.run(
            [sys.executable, yard / "scripts" / "update.py", *arguments],
            cwd=repo,
            env=os.environ | GIT_IDENTITY | {"GITHUB_ACTIONS": "false"},
            capture_output=True,
            text=True,
        )
        lines = {name: text.splitlines() for name, text in vars(done).items() if name[:3] == "std"}
        listed = {n: [x[2:] for x in found if x.startswith("  ")] for n, found in lines.items()}
        text = done.stdout + done.stderr
        return Updated(done.returncode, listed["stdout"], listed["stderr"], text)

    return update


@pytest.fixture(scope="session")
def history(once: Once) -> Path:
    """This repository with all of its past, and the work tree's files as its newest commit."""
    if run("git", "rev-parse", "--is-shallow-repository", cwd=ROOT, check=False) != "false\n":
        pytest.skip("a shallow clone lacks the old templates: git fetch --unshallow")

    def clone(folder: Path) -> None:
        yard = folder / "modelyard"
        run("git", "clone", "--quiet", "--no-tags", ROOT, yard, cwd=ROOT)
        run("git", "rm", "--quiet", "-r", ".", cwd=yard)
        listed = run("git", "ls-files", "-co", "--exclude-standard", "-z", cwd=ROOT)
        for name in filter(None, listed.split("\0")):
            if (ROOT / name).exists():
                (yard / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, yard / name, follow_symlinks=False)
        commit(yard, "The work tree")

    return once("history", clone) / "modelyard"


MadeAt = Callable[..., Path]


@pytest.fixture(scope="session")
def made_at(history: Path) -> MadeAt:
    """`made_at("b98462d", path, task="regression", …)`: a model repo of that age, committed."""

    def made_at(age: str, path: Path, **answers: object) -> Path:
        given = {"project_name": "flight-delay", "owner": "acme", **answers}
        data = [part for name, value in given.items() for part in ("--data", f"{name}={value}")]
        copier(
            "copy", "--quiet", "--defaults", "--vcs-ref", age, *data, history, path, cwd=path.parent
        )
        commit(path, "Start from the modelyard template")
        return path

    return made_at


def answers(repo: Path) -> dict[str, object]:
    return yaml.safe_load((repo / ".copier-answers.yml").read_text())
