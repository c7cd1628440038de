"""Real Bentos for the delivery room's tests, and model repos that release them."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from delivery.model_repo import BIN, POLICY, Repo, package
from support import Once

FIXTURE = Path(__file__).parent / "bento" / "service.py"
VERSIONS = (1, 2, 3)


@pytest.fixture(scope="session")
def bento_store(once: Once) -> Path:
    """A BENTOML_HOME with fixture:1, :2 and :3, made by `bentoml build`."""
    return once("fixture-bentos", build) / "bentoml"


def build(folder: Path) -> None:
    context, home = folder / "context", folder / "bentoml"
    context.mkdir()
    shutil.copy(FIXTURE, context)
    settings = {
        "service": "service:Fixture",
        "name": "fixture",
        "include": ["service.py", "version.txt", "packages/"],
        "python": {"lock_packages": False},
    }
    (context / "bentofile.yaml").write_text(yaml.safe_dump(settings))
    for version in VERSIONS:
        (context / "version.txt").write_text(str(version))
        package(context / "packages" / str(version))
        subprocess.run(
            [BIN / "bentoml", "build", "--version", str(version)],
            cwd=context,
            env={**os.environ, "BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True"},
            check=True,
            stdout=subprocess.DEVNULL,
        )


@pytest.fixture
def repo(tmp_path: Path, bento_store: Path) -> Iterator[Repo]:
    """A repo in which nothing was ever released."""
    repo = Repo(tmp_path / "repo", bento_store)
    yield repo
    repo.end_commands()
    if any(repo.folder.glob(".modelyard/serving/*/process.json")):
        repo.modelyard("release", "stop", "--env", "local")


@pytest.fixture(scope="session")
def _first_released(tmp_path_factory: pytest.TempPathFactory, bento_store: Path) -> Iterator[Repo]:
    repo = Repo(tmp_path_factory.mktemp("serving") / "repo", bento_store)
    code, result = repo.release(1)
    assert (code, result["decision"]) == (0, "bootstrapped"), result
    yield repo
    repo.end_commands()
    repo.modelyard("release", "stop", "--env", "local")


@pytest.fixture
def serving(_first_released: Repo) -> Iterator[Repo]:
    """Version 1 is stable and serves, before and after; for releases that do not go through."""
    yield _first_released
    _first_released.end_commands()
    for file in _first_released.faults.glob("*.json"):
        file.unlink()
    _first_released.write_policy(POLICY)
    assert _first_released.answers() == 1
