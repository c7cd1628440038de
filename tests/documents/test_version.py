"""The version that Git's tags give, built by the real backend, and what is named by it."""

import re
import subprocess
import sys
import tarfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.version import Version
from support import ROOT, commit, run

from modelyard.documents import UserError, version
from modelyard.documents.version import image_tag, platform_version, versioned_name

LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
BUILD = """
import sys
from hatchling.builders.wheel import WheelBuilder
from hatchling.builders.sdist import SdistBuilder
kind = {"wheel": WheelBuilder, "sdist": SdistBuilder}[sys.argv[1]]
print(*kind(".").build(directory=sys.argv[2], versions=["standard"]))
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Sources that build: this repository's pyproject.toml around a module."""
    folder = tmp_path / "tree"
    for package in ("common", "dagster_project", "bentos", "argo"):
        (folder / package / "modelyard" / package).mkdir(parents=True)
        (folder / package / "modelyard" / package / "__init__.py").touch()
    (folder / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    (folder / "README.md").write_text("modelyard\n")
    return folder


def built(tree: Path, kind: str = "wheel") -> Path:
    folder = tree.parent / "dist"
    done = subprocess.run(
        [sys.executable, "-c", BUILD, kind, folder], cwd=tree, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


def version_of(path: Path) -> str:
    return re.split("-|[.]tar", path.name)[1]


def test_a_tagged_commit_is_that_version_and_each_other_one_is_its_own(tree: Path) -> None:
    commit(tree, "First")
    untagged = version_of(built(tree))
    assert re.fullmatch(r"0[.]0[.]1[.]dev1\+g[0-9a-f]{7,}", untagged), "no tag anywhere"
    commit(tree, "Second", tag="v0.2.0")
    assert version_of(built(tree)) == "0.2.0"
    commit(tree, "Third")
    third = version_of(built(tree))
    commit(tree, "Fourth")
    fourth = version_of(built(tree))
    sha = run("git", "rev-parse", "HEAD", cwd=tree).strip()
    assert re.fullmatch(r"0[.]2[.]1[.]dev2\+g[0-9a-f]{7,}", fourth)
    assert sha.startswith(fourth.partition("+g")[2])
    assert Version(untagged) < Version("0.2.0") < Version(third) < Version(fourth)


def test_a_tree_without_git_builds(tree: Path) -> None:
    """An image's COPY knows what it is told; an sdist knows by itself."""
    assert version_of(built(tree)) == "0.0.0"
    commit(tree, "First", tag="v0.2.0")
    with tarfile.open(built(tree, "sdist")) as archive:
        archive.extractall(tree.parent, filter="data")
    assert version_of(built(tree.parent / "modelyard-0.2.0")) == "0.2.0"


def test_a_clone_that_runs_in_place_says_what_it_is_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its installed metadata are of the day when the environment was made."""
    module = tmp_path / "common" / "modelyard" / "documents" / "version.py"
    module.parent.mkdir(parents=True)
    module.write_text("\n")
    (tmp_path / "copier.yml").write_text("\n")
    commit(tmp_path, "First", tag="v7.0.0")
    monkeypatch.delenv("MODELYARD_VERSION")
    monkeypatch.setattr(version, "__file__", str(module))
    assert platform_version() == "7.0.0"
    commit(tmp_path, "Second")
    assert platform_version().startswith("7.0.1.dev1+g")
    monkeypatch.setattr(version, "__file__", str(tmp_path / "a" / "b" / "c" / "d.py" / "e.py"))
    assert platform_version() == metadata.version("modelyard")


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("0.2.0", "modelyard-release-v0-2-0"),
        ("1.0.0rc1", "modelyard-release-v1-0-0rc1"),
        ("0.2.1.dev3+g5797af433", "modelyard-release-v0-2-1-dev3-g5797af4"),
        ("0.2.1.dev3+g5797af433aa", "modelyard-release-v0-2-1-dev3-g5797af4"),
        ("0.2.1.dev3+g5797af433.d20261126", "modelyard-release-v0-2-1-dev3-g5797af4-d20261126"),
        ("0.0.1.dev340+g3accefe12", "modelyard-release-v0-0-1-dev340-g3accefe"),
    ],
)
def test_names_in_clusters(given: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELYARD_VERSION", given)
    assert versioned_name("modelyard-release") == name and re.fullmatch(LABEL, name)
    assert re.fullmatch(r"[\w.-]{1,128}", image_tag())


def test_nothing_is_named_by_a_version_that_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELYARD_VERSION", "0.0.0")
    with pytest.raises(UserError):
        versioned_name("modelyard-release")
