"""The same commit and data give the same package, bit by bit; other data are named."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from pipeline.flights import configure, make_small, materialize
from support import commit

from modelyard.documents import UserError
from modelyard.pipeline.reproduce import reproduce
from modelyard.pipeline.workspace import Workspace

pytestmark = pytest.mark.xdist_group("reproduce")


@pytest.fixture(scope="module")
def registered(
    render: Callable[..., Path], sample: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A repo with version 1, made from a commit, and a source beside it that may be spoilt."""
    folder = tmp_path_factory.mktemp("reproduce")
    source = folder / "source"
    shutil.copytree(sample, source)
    repo = render(folder / "flight-delay")
    make_small(repo, source)
    configure(repo, epochs=2)
    commit(repo, "Train on little")
    code, printed = materialize(repo)
    assert code == 0, printed
    return repo, source


def again(repo: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "modelyard.pipeline.reproduce", "1"]
    return subprocess.run(command, cwd=repo, capture_output=True, text=True, timeout=300)


def test_the_same_commit_and_data_give_the_same_package(registered: tuple[Path, Path]) -> None:
    done = again(registered[0])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "identical: version 1 was built again, bit by bit" in done.stdout
    assert not (registered[0] / ".modelyard" / "reproduce" / "1").exists()


def test_other_data_are_named(registered: tuple[Path, Path]) -> None:
    repo, source = registered
    flights = pl.read_csv(source / "flights.csv", infer_schema=False)
    flights[1:].write_csv(source / "flights.csv")
    done = again(repo)
    assert done.returncode == 1 and "built again, but differs:\n  data_hash: " in done.stdout
    assert "files.model.pt2: " in done.stdout


def test_what_no_commit_holds_is_refused(registered: tuple[Path, Path]) -> None:
    workspace = Workspace(registered[0])
    shutil.copytree(workspace.registered(1), workspace.registered(7))
    manifest = workspace.registered(7) / "manifest.json"
    text = manifest.read_text()
    head = workspace.git_commit()
    manifest.write_text(text.replace(head, f"{head}+dirty"))
    with pytest.raises(UserError, match="version 7 was made from files that no commit holds"):
        reproduce(workspace, 7)
    manifest.write_text(text.replace(head, "0" * 40))
    with pytest.raises(UserError, match="git has no commit 0000"):
        reproduce(workspace, 7)
