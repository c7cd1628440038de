"""A template repository as it stands in the working tree, and model repos rendered from it."""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from support import ROOT, Once, commit, copier, run

# How long an example takes says how busy the machine is.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

# Golden files hold a version; that of the commit under test is another each time.
os.environ["MODELYARD_VERSION"] = "0.1.0"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Groups first: they are what takes long, and single tests fill the gap at the end."""
    items.sort(key=lambda item: item.get_closest_marker("xdist_group") is None)


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Once:
    """`once(name, make)`: the folder that `make(folder)` filled, in one of the workers for all of
    them; not to be changed."""
    shared = tmp_path_factory.getbasetemp()
    shared = shared if worker_id == "master" else shared.parent

    def once(name: str, make: Callable[[Path], object]) -> Path:
        folder, done = shared / name, shared / f"{name}.done"
        with (shared / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of one who failed at it
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return once


@pytest.fixture(scope="session")
def platform(once: Once) -> Path:
    """This checkout, uncommitted changes included, as a clean git repository tagged v0.1.0."""

    def copy(folder: Path) -> None:
        repo = folder / "modelyard"
        listed = run("git", "ls-files", "-co", "--exclude-standard", "-z", cwd=ROOT)
        for name in filter(None, listed.split("\0")):
            if (ROOT / name).exists():
                (repo / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, repo / name, follow_symlinks=False)
        commit(repo, "The platform", tag="v0.1.0")

    return once("platform", copy) / "modelyard"


@pytest.fixture
def yard(platform: Path, tmp_path: Path) -> Path:
    """A platform of one's own that can move on to v0.2.0."""
    run("git", "clone", "--quiet", platform, tmp_path / "modelyard", cwd=tmp_path)
    return tmp_path / "modelyard"


Render = Callable[..., Path]


@pytest.fixture(scope="session")
def render(platform: Path, once: Once) -> Render:
    """`render(path, task="regression", …)`: a model repo, committed; answers by keyword."""

    def render(path: Path, source: Path = platform, **answers: object) -> Path:
        given = {"project_name": "flight-delay", "owner": "acme", **answers}

        def made(folder: Path) -> None:
            data = [part for name, value in given.items() for part in ("--data", f"{name}={value}")]
            copier("copy", "--quiet", "--defaults", *data, source, folder, cwd=folder.parent)
            commit(folder, "Start from the modelyard template")

        if source != platform:  # it may change
            made(path)
            return path
        name = hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()[:12]
        return Path(shutil.copytree(once(f"rendered-{name}", made), path, symlinks=True))

    return render
