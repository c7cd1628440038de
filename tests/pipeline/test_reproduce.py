"""The same commit and data give the same package, bit by bit; other data are named."""

import re
import shutil
import subprocess
from pathlib import Path

import polars as pl
import pytest
from pipeline.flights import Registered

from modelyard.cli import script
from modelyard.documents import UserError
from modelyard.pipeline.commands.reproduce import reproduce
from modelyard.pipeline.storage.workspace import Workspace

pytestmark = pytest.mark.xdist_group("pipeline-repo")


def again(repo: Path) -> subprocess.CompletedProcess[str]:
    command = [script(), "reproduce", "1"]
    return subprocess.run(command, cwd=repo, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_the_same_commit_and_data_give_the_same_package(registered: Registered) -> None:
    # What ranks of an interrupted run wrote after its end does not count.
    (registered.repo / ".modelyard" / "reproduce" / "1" / ".modelyard").mkdir(parents=True)
    done = again(registered.repo)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "identical: version 1 was built again, bit by bit" in done.stdout
    assert not (registered.repo / ".modelyard" / "reproduce" / "1").exists()


@pytest.mark.slow
def test_other_data_are_named(registered: Registered) -> None:
    path = registered.source / "flights.csv"
    kept = path.read_bytes()
    pl.read_csv(path, infer_schema=False)[1:].write_csv(path)
    done = again(registered.repo)
    path.write_bytes(kept)
    assert done.returncode == 1 and "built again, but differs:\n  data_hash: " in done.stdout
    assert "files.model.pt2: " in done.stdout


def test_another_platform_is_told(registered: Registered) -> None:
    """An update since then: what builds it is not what it was made with."""
    answers = registered.repo / ".copier-answers.yml"
    kept = answers.read_bytes() if answers.exists() else None
    answers.write_text("_commit: v9.9.9\n_src_path: /nowhere\n")
    done = again(registered.repo)
    answers.unlink() if kept is None else answers.write_bytes(kept)
    assert done.returncode == 0, "the same nevertheless"
    assert re.search("^version 1 was made with the platform at .*; it is built again with v9.9.9,",
                     done.stdout)  # fmt: skip


def test_what_no_commit_holds_is_refused(registered: Registered) -> None:
    workspace = Workspace(registered.repo)
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
    shutil.rmtree(workspace.registered(7))
