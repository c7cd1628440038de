"""The pipeline tests' real flights, and updates of model repos."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from pipeline.conftest import sample
from support import GIT_IDENTITY

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


def answers(repo: Path) -> dict[str, object]:
    return yaml.safe_load((repo / ".copier-answers.yml").read_text())
