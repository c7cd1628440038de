"""Repos that were made at any age of this template's history come to today's, whole."""

import shutil
from pathlib import Path

import pytest
from support import ROOT, commit, copier, run

from modelyard.documents.pins import disagreements, read_pin

AGES = (
    "358dfad", "727d837", "1f7fb9a", "51b7c07", "c30e5f7", "df3564a", "448a261", "8e1dad7",
    "b98462d",
)  # fmt: skip
LOOP_OF_ITS_OWN = AGES[:4]
"""before f2d597b, whose `Run` had other methods: a train.py of then does not run now"""
SHALLOW = run("git", "rev-parse", "--is-shallow-repository", cwd=ROOT, check=False) != "false\n"
EDITED = (
    "Makefile", "config.yaml", "pyproject.toml", "argo/release.yaml", "bentos/service.py",
    "src/flight_delay/contract.py", "src/flight_delay/definitions.py",
    "src/flight_delay/defs/data.py", "src/flight_delay/defs/training.py",
    "src/flight_delay/settings.py", "src/flight_delay/train.py", "tests/test_model.py",
)  # fmt: skip
DELETED = (".github/workflows/update.yml", "src/flight_delay/features.py", "tests/test_release.py")
MARK = "# the team's"

pytestmark = [
    pytest.mark.xdist_group("ages"),
    pytest.mark.slow,
    pytest.mark.skipif(SHALLOW, reason="a shallow clone lacks the old templates: git fetch --unshallow"),
]  # fmt: skip


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This repository with all of its past, and the work tree's files as its newest commit."""
    yard = tmp_path_factory.mktemp("history") / "modelyard"
    run("git", "clone", "--quiet", "--no-tags", ROOT, yard, cwd=ROOT)
    run("git", "rm", "--quiet", "-r", ".", cwd=yard)
    listed = run("git", "ls-files", "-co", "--exclude-standard", "-z", cwd=ROOT)
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).exists():
            (yard / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, yard / name, follow_symlinks=False)
    commit(yard, "The work tree")
    return yard


def made_at(age: str, yard: Path, path: Path) -> Path:
    data = ("--data", "project_name=flight-delay", "--data", "owner=acme")
    copier(
        "copy", "--quiet", "--defaults", "--vcs-ref", age, *data, yard, path, cwd=path.parent
    )
    commit(path, "Start from the modelyard template")
    return path


@pytest.mark.parametrize("age", AGES)
def test_what_the_team_did_is_there_after_the_update(
    age: str, history: Path, tmp_path: Path, update
) -> None:
    repo = made_at(age, history, tmp_path / "flight-delay")
    edited = {}
    for name in EDITED:
        path = repo / name
        path.write_text(f"{path.read_text()}\n{MARK}\n")
        edited[name] = path.read_text()
    run("git", "rm", "--quiet", *DELETED, cwd=repo)
    (repo / "src" / "flight_delay" / "airports.py").write_text('HUB = "JFK"\n')
    commit(repo, "The team's work")

    done = update(repo, history)

    assert done.code in (0, 2), done.text
    present = set(run("git", "ls-files", cwd=repo).split())
    assert not present & set(DELETED)
    assert "src/flight_delay/airports.py" in present
    texts = {name: path.read_text() for name in EDITED if (path := repo / name).exists()}
    lost = [name for name in EDITED if MARK not in texts.get(name, "")]
    assert not lost, "moved by a migration, its text has to be looked for there"
    wanted = {line.split(":")[0] for line in done.wanted}
    if unmerged := set(run("git", "diff", "--name-only", "--diff-filter=U", cwd=repo).split()):
        assert unmerged <= wanted
    if "pyproject.toml" not in unmerged:
        assert not disagreements(repo)
        assert read_pin(repo).sha == run("git", "rev-parse", "HEAD", cwd=history).strip()
    if age in LOOP_OF_ITS_OWN:
        places = [line.split(": ")[0] for line in done.wanted]
        assert done.code == 2 and "src/flight_delay/train.py:28" in places
    assert (done.code == 2) == bool(done.wanted)


def test_nothing_is_asked_of_a_repo_that_nobody_edited(
    history: Path, tmp_path: Path, update
) -> None:
    """Of the newest of the ages, of which all still runs."""
    repo = made_at(AGES[-1], history, tmp_path / "flight-delay")
    done = update(repo, history)
    assert done.code == 0 and not done.wanted, done.text
    commit(repo, "Update")
    assert "nothing to do" in update(repo, history).text
