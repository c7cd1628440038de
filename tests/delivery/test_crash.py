"""kill -9 of the controller: users notice nothing, and the next controller goes on."""

import sys
from pathlib import Path

import pytest
from delivery.model_repo import POLICY, Repo, Users

pytestmark = [pytest.mark.xdist_group("delivery"), pytest.mark.slow]

DOOMED = Path(__file__).with_name("doomed.py")
STEPS = {**POLICY["canary"], "steps": [20, 50]}
BEGIN = {"append preflight 0", "append deploy 0", "append shadow 0"}


def killed_everywhere(repo: Repo) -> tuple[int, set[str]]:
    """A release that is killed before and after every change of the world, once each; its exit
    code, and what those changes were."""
    repo.write_policy({**POLICY, "canary": STEPS})
    marks = repo.folder / "marks"
    marks.unlink(missing_ok=True)
    release = ("release", "run", "--env", "local", "--candidate", "2")
    program = (sys.executable, DOOMED, marks)
    done = repo.finish(repo.start(*release, program=program))
    places = marks.read_text().splitlines()
    before, after = (
        {p.removeprefix(f"{side} ") for p in places if p.startswith(side)}
        for side in ("before", "after")
    )
    assert before == after
    return done.returncode, before


def test_killed_at_every_change_a_good_release_is_promoted(repo: Repo) -> None:
    assert repo.modelyard("release", "run", "--env", "local", "--candidate", "1").returncode == 0
    with Users(repo.url, rate=120) as users:
        code, changes = killed_everywhere(repo)
    assert (code, users.failed) == (0, [])
    assert changes >= {*BEGIN, "append canary 50", "append promote 100", "append done 100"}
    assert sum(change.startswith("route") for change in changes) == 6
    assert {"deploy 2", "stop 1"} <= changes
    assert users.answers.keys() == {1, 2} and repo.answers() == 2


def test_killed_at_every_change_a_bad_release_is_rolled_back(serving: Repo) -> None:
    serving.plant(2, fail_share=1.0, live_only=True)
    with Users(serving.url, rate=120) as users:
        code, changes = killed_everywhere(serving)
    assert (code, serving.events()[-1].decision) == (2, "rolled_back")
    assert changes >= {*BEGIN, "append rollback 0", "append done 0", "deploy 2", "stop 2"}
    assert set(users.failed) <= {'500 {"error":"planted"}'}, "none but by the candidate"
    assert 0 < len(users.failed) < 60
    assert serving.answers() == 1
