"""A template repository as it stands in the working tree, and model repos rendered from it."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support import ROOT, commit, copier, run

# Golden files hold a version; that of the commit under test is another each time.
os.environ["MODELYARD_VERSION"] = "0.1.0"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Groups first: they are what takes long, and single tests fill the gap at the end."""
    items.sort(key=lambda item: item.get_closest_marker("xdist_group") is None)


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This checkout, uncommitted changes included, as a clean git repository tagged v0.1.0."""
    repo = tmp_path_factory.mktemp("platform") / "modelyard"
    listed = run("git", "ls-files", "-co", "--exclude-standard", "-z", cwd=ROOT)
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).exists():
            (repo / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, repo / name, follow_symlinks=False)
    commit(repo, "The platform", tag="v0.1.0")
    return repo


@pytest.fixture
def yard(platform: Path, tmp_path: Path) -> Path:
    """A platform of one's own that can move on to v0.2.0."""
    run("git", "clone", "--quiet", platform, tmp_path / "modelyard", cwd=tmp_path)
    return tmp_path / "modelyard"


Render = Callable[..., Path]


@pytest.fixture(scope="session")
def render(platform: Path) -> Render:
    """`render(path, task="regression", …)`: a model repo, committed; answers by keyword."""

    def render(path: Path, source: Path = platform, **answers: object) -> Path:
        given = {"project_name": "flight-delay", "owner": "acme", **answers}
        data = [part for name, value in given.items() for part in ("--data", f"{name}={value}")]
        copier("copy", "--quiet", "--defaults", *data, source, path, cwd=path.parent)
        commit(path, "Start from the modelyard template")
        return path

    return render
