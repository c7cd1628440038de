"""Repos that were made at any age of this template's history come to today's, whole."""

from pathlib import Path

import pytest
from support import commit, run

from modelyard.documents.pins import disagreements, read_pin

AGES = (
    "358dfad", "727d837", "1f7fb9a", "51b7c07", "c30e5f7", "df3564a", "448a261", "8e1dad7",
    "b98462d",
)  # fmt: skip
LOOP_OF_ITS_OWN = AGES[:4]
"""before f2d597b, whose `Run` had other methods: a train.py of then does not run now"""
EDITED = (
    "Makefile", "config.yaml", "pyproject.toml", "argo/release.yaml", "bentos/service.py",
    "src/flight_delay/contract.py", "src/flight_delay/definitions.py",
    "src/flight_delay/defs/data.py", "src/flight_delay/defs/training.py",
    "src/flight_delay/settings.py", "src/flight_delay/train.py", "tests/test_model.py",
)  # fmt: skip
DELETED = (".github/workflows/update.yml", "src/flight_delay/features.py", "tests/test_release.py")
MOVED = {"defs/data.py": "data.py", "settings.py": "train.py"}
"""in the package, by a migration"""
MARK = "# the team's"

pytestmark = [pytest.mark.xdist_group("ages"), pytest.mark.slow]


def now(repo: Path, name: str) -> str:
    """What stands in the file, which may have moved."""
    for old, new in MOVED.items():
        moved = repo / name.replace(old, new)
        if name.endswith(f"flight_delay/{old}") and not (repo / name).exists():
            return moved.read_text()
    return (repo / name).read_text() if (repo / name).exists() else ""


@pytest.mark.parametrize("age", AGES)
def test_what_the_team_did_is_there_after_the_update(
    age: str, history: Path, made_at, tmp_path: Path, update
) -> None:
    repo = made_at(age, tmp_path / "flight-delay")
    for name in EDITED:
        path = repo / name
        path.write_text(f"{path.read_text()}\n{MARK} {name}\n")
    run("git", "rm", "--quiet", *DELETED, cwd=repo)
    (repo / "src" / "flight_delay" / "airports.py").write_text('HUB = "JFK"\n')
    commit(repo, "The team's work")

    done = update(repo, history)

    assert done.code in (0, 2), done.text
    present = set(run("git", "ls-files", cwd=repo).split())
    assert not present & set(DELETED)
    assert "src/flight_delay/airports.py" in present
    lost = [name for name in EDITED if f"{MARK} {name}" not in now(repo, name)]
    assert not lost
    wanted = {line.split(":")[0] for line in done.wanted}
    if unmerged := set(run("git", "diff", "--name-only", "--diff-filter=U", cwd=repo).split()):
        assert unmerged <= wanted
    if "pyproject.toml" not in unmerged:
        assert not disagreements(repo)
        assert read_pin(repo).sha == run("git", "rev-parse", "HEAD", cwd=history).strip()
    if age in LOOP_OF_ITS_OWN:
        places = [line.split(": ")[0] for line in done.wanted]
        lines = now(repo, "src/flight_delay/train.py").splitlines()
        line = next(n for n, text in enumerate(lines, 1) if "run.batches" in text)
        assert f"src/flight_delay/train.py:{line}" in places
    # What the wiring was has to be looked at by someone, or nothing of it loads.
    assert done.code == 2 and "src/flight_delay/defs/training.py" in wanted
    assert (done.code == 2) == bool(done.wanted)


def test_nothing_is_asked_of_a_repo_that_nobody_edited(
    history: Path, made_at, tmp_path: Path, update
) -> None:
    """Of the newest of the ages, of which all still runs."""
    repo = made_at(AGES[-1], tmp_path / "flight-delay")
    done = update(repo, history)
    assert done.code == 0 and not done.wanted, done.text
    commit(repo, "Update")
    assert "nothing to do" in update(repo, history).text
