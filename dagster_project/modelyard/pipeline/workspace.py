"""Where a model repo keeps its local state."""

import os
import re
import shutil
import subprocess
import tempfile
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ASIDE = ".aside"
"""a folder that is being replaced, in a temporary one"""
ABANDONED = 24 * 3600
"""seconds after which nobody writes to a temporary folder any more"""


@dataclass(frozen=True)
class Workspace:
    """The paths of a model repo; everything that a run writes lies under `.modelyard/`."""

    root: Path

    @property
    def state(self) -> Path:
        return self.root / ".modelyard"

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
        return self.state / "packages" / str(version)

    @property
    def releases(self) -> Path:
        return self.state / "releases"

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


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A temporary file that takes the place of `path` when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(path.suffix, f".{path.stem}.", path.parent)
    os.close(handle)
    try:
        yield Path(name)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


@contextmanager
def replaced_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of `path` when the block ends well.

    First, what a killed run left beside `path` is cleared away; had that run moved the
    folder aside and put nothing in its place yet, the folder comes back.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _recover(path)
    new = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    new.chmod(0o755)
    try:
        yield new
        if path.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
            os.rename(path, old / ASIDE)
            os.rename(new, path)
            shutil.rmtree(old)
        else:
            os.rename(new, path)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _recover(path: Path) -> None:
    for left in path.parent.glob(f".{path.name}.*"):
        if (left / ASIDE).exists() and not path.exists():
            os.rename(left / ASIDE, path)
        if time.time() - left.stat().st_mtime > ABANDONED:
            shutil.rmtree(left, ignore_errors=True)
