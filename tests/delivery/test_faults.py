"""Planted faults under a harm budget: what is decided, and what it costs users.

The real command, Envoy, two BentoML servers, and load from outside that counts for itself.
"""

import json
import re
from itertools import pairwise

import pytest
from delivery.model_repo import POLICY, Repo, Users

pytestmark = pytest.mark.xdist_group("delivery")

BUDGET = 20
RATE = 120
RAMP = {
    **POLICY,
    # A busy machine answers less in a second: nothing here is to end undecided.
    "shadow": {"min_requests": 60, "max_duration": "240s"},
    "canary": {
        "ramp": {"harm_budget": BUDGET},
        "min_requests": 20,
        "min_duration": "300ms",
        "max_duration": "240s",
    },
    "gates": {**POLICY["gates"], "errors": {"margin": 0.01}, "scores": {"max_shift": 0.2}},
}
SLOW = {**RAMP["gates"], "latency": {"quantile": 0.5, "ratio": 1.1, "slack": "2ms"}}


def released(repo: Repo, gates: dict = RAMP["gates"]) -> tuple[dict, Users]:
    """A release of version 2 under users' requests, which is rolled back; and the users."""
    repo.write_policy({**RAMP, "gates": gates})
    with Users(repo.url, rate=RATE) as users:
        done = repo.modelyard("release", "run", "--env", "local", "--candidate", "2", "--json")
    result = json.loads(done.stdout)
    assert (done.returncode, result["decision"]) == (2, "rolled_back"), result
    assert users.answers[1] > 0 and repo.answers() == 1
    return result, users


def last_phase(repo: Repo) -> str:
    phases = [e.phase for e in repo.events() if e.phase not in ("rollback", "done")]
    return phases[-1]


def at_once(repo: Repo) -> int:
    """Requests that the candidate got between two looks, at most: all of them can fail before the
    second one acts, and a machine that is busy looks late."""
    counts = [e.evidence["counts"] for e in repo.events() if e.evidence and "counts" in e.evidence]
    seen = [c["candidate"]["requests"] + c["candidate"]["pending"] for c in counts
            if "candidate" in c and not c.get("pairs")]  # fmt: skip
    return max((after - before for before, after in pairwise(seen)), default=0)


@pytest.mark.parametrize(
    "share",
    [pytest.param(0.02, marks=pytest.mark.slow), pytest.param(0.1, marks=pytest.mark.slow), 1.0],
)
def test_failures_that_begin_in_live_traffic_cost_no_more_than_the_budget(
    serving: Repo, share: float
) -> None:
    serving.plant(2, fail_share=share, live_only=True)
    result, users = released(serving)
    assert last_phase(serving) == "canary"
    assert re.search(r"errors: \d+ of \d+ failed|of the harm budget", result["reason"])
    assert 0 < len(users.failed) <= BUDGET + at_once(serving)
    assert set(users.failed) == {'500 {"error":"planted"}'}, "none but by the candidate"


@pytest.mark.slow
def test_a_candidate_that_hangs_on_users(serving: Repo) -> None:
    serving.plant(2, latency_s=30, live_only=True)
    _, users = released(serving)
    assert last_phase(serving) == "canary"
    assert len(users.failed) <= BUDGET + at_once(serving)


@pytest.mark.slow
@pytest.mark.parametrize("times", [1.2, 2])
def test_a_slower_candidate_fails_nobody(serving: Repo, times: float) -> None:
    for version, factor in ((1, 1.0), (2, times)):
        serving.plant(version, latency_s=0.2 * factor)
    result, users = released(serving, SLOW)
    assert result["reason"].startswith("latency: p50 ")
    assert users.failed == []


@pytest.mark.slow
def test_a_shifted_score_is_seen_in_shadow(serving: Repo) -> None:
    serving.plant(2, shift=0.5)
    result, users = released(serving)
    assert last_phase(serving) == "shadow" and result["reason"].startswith("predictions: ")
    assert users.failed == [] and users.answers.keys() == {1}, "no user was asked to try it"


@pytest.mark.slow
def test_a_score_that_is_shifted_in_live_traffic_only(serving: Repo) -> None:
    serving.plant(2, shift=0.4, live_only=True)
    result, users = released(serving)
    assert last_phase(serving) == "canary" and result["reason"].startswith("scores: ")
    assert users.failed == []


@pytest.mark.slow
def test_a_candidate_that_refuses_what_stable_accepts(serving: Repo) -> None:
    serving.plant(2, refuse=True)
    result, users = released(serving)
    assert last_phase(serving) == "shadow" and result["reason"].startswith("errors: ")
    assert users.failed == [] and users.answers.keys() == {1}
