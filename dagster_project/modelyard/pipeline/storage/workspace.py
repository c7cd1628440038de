"""Where a model repo keeps its local state."""

import re
import subprocess
import tomllib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from modelyard.documents.layout import STATE, StateFolder


@dataclass(frozen=True)
class Workspace:
    """The paths of a model repo; everything that a run writes lies under `.modelyard/`."""

    root: Path

    @property
    def state(self) -> Path:
        return self.root / STATE

    def partition(self, stage: str, month: str) -> Path:
        """`stage` is raw, valid, quarantine or features; `month` is YYYY-MM."""
        return self.state / "data" / stage / f"{month}.parquet"

    def dataset(self, name: str) -> Path:
        """`name` is train, validation, test or replay."""
        return self.state / "data" / f"{name}.parquet"

    @property
    def training(self) -> Path:
        """The work folder of torchrun: what the ranks read and write."""
        return self.state / "training"

    @property
    def evaluation(self) -> Path:
        return self.state / "evaluation"

    @property
    def package(self) -> Path:
        """The model package as last built."""
        return self.state / "package"

    def registered(self, version: int) -> Path:
        """The package of a registered version; never changed once it is there."""
        return StateFolder(self.state).package(version)

    @property
    def releases(self) -> Path:
        return StateFolder(self.state).releases

    def project(self) -> dict[str, Any]:
        """`[project]` of pyproject.toml."""
        return tomllib.loads((self.root / "pyproject.toml").read_text())["project"]

    def git(self, *arguments: str) -> str:
        """What git prints; nothing where it fails."""
        command = ["git", "-C", str(self.root), *arguments]
        done = subprocess.run(command, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    def git_commit(self) -> str:
        """HEAD, with `+dirty` where tracked files differ; `uncommitted` outside of git."""
        head = self.git("rev-parse", "HEAD")
        dirty = self.git("status", "--porcelain", "--untracked-files=no")
        return f"{head}{'+dirty' if dirty else ''}" if head else "uncommitted"

    def changed(self) -> datetime:
        """When what stands here was written: the commit's time, or now if files differ from it."""
        if not re.fullmatch("[0-9a-f]+", self.git_commit()):
            return datetime.now(UTC)
        return datetime.fromtimestamp(int(self.git("show", "--no-patch", "--format=%ct")), UTC)

    def template_version(self) -> str:
        """The commit or tag of the template that the repo was made from."""
        import yaml

        answers = self.root / ".copier-answers.yml"
        return str(yaml.safe_load(answers.read_text())["_commit"]) if answers.exists() else "none"
