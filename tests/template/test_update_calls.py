"""What an update says of calls that the platform no longer has."""

import sys
from pathlib import Path

import pytest
from support import commit

from scripts.updating.calls import broken_calls
from scripts.updating.git import Git

PYPROJECT = '[tool.hatch.build]\ndev-mode-dirs = ["common"]\n'


def platform(folder: Path) -> tuple[Git, str, str]:
    (folder / "common").mkdir(parents=True)
    (folder / "pyproject.toml").write_text(PYPROJECT)
    module = folder / "common" / "yard.py"
    module.write_text("def kept() -> None: ...\ndef gone() -> None: ...\n")
    commit(folder, "Both")
    module.write_text("def kept() -> None: ...\n")
    commit(folder, "One of them")
    git = Git(folder)
    return git, git("rev-parse", "HEAD~1").strip(), git("rev-parse", "HEAD").strip()


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    (tmp_path / "repo" / "src").mkdir(parents=True)
    text = "import yard\n\nyard.kept()\nyard.gone()\nyard.never()\n"
    (tmp_path / "repo" / "src" / "ours.py").write_text(text)
    return tmp_path / "repo"


def test_only_what_the_update_breaks_is_named(tmp_path: Path, repo: Path) -> None:
    found = broken_calls(*platform(tmp_path / "platform"), repo, ["src/ours.py"])
    assert found is not None
    assert [(file, line) for file, line, _ in found] == [("src/ours.py", 4)]


def test_a_look_that_fails_is_not_taken_for_a_good_one(
    tmp_path: Path, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = platform(tmp_path / "platform")
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert broken_calls(*given, repo, ["src/ours.py"]) is None
