"""The harm budget: what a weight may cost, and requests that a candidate keeps waiting."""

import pytest

from modelyard.delivery.evidence.counts import Arm, Counts, Pairs
from modelyard.delivery.evidence.looks import Evidence, Health
from modelyard.delivery.gates.harm_budget import HIGHEST, Outlook
from modelyard.delivery.policy import Policy
from modelyard.delivery.release.assess import assess
from modelyard.delivery.release.decide import decide
from modelyard.delivery.release.fold import apply, first_event, next_event, replay
from modelyard.delivery.release.state import RECENT


def outlook(**given: float) -> Outlook:
    return Outlook(**{"left": 20.0, "bound": 1.0, "shadow_bound": 0.1, "requests": 40.0, **given})


@pytest.mark.parametrize(
    ("given", "weight"),
    [
        ({"bound": 0.5}, HIGHEST),
        ({}, 32),
        ({"requests": 100.0}, 12),
        ({"bound": 0.01, "requests": 10_000.0}, 12),
        # Nobody knows what comes next.
        ({"requests": 0.0}, 1),
        # The next failure would be beyond the budget.
        ({"left": 0.9, "bound": 0.001}, 0),
        # Where even 1 % may cost too much, what the shadow has proven is enough.
        ({"requests": 10_000.0, "left": 20.0}, 1),
        ({"requests": 10_000.0, "left": 20.0, "shadow_bound": 0.5}, 0),
    ],
)
def test_the_weight_that_is_affordable(given: dict, weight: int) -> None:
    assert outlook(**given).weight() == weight
    assert outlook(**given).cost(weight) <= 20 or weight == 1


def test_what_a_hanging_candidate_owes_is_taken_for_failures_to_come() -> None:
    assert outlook(owed=12.0, by_chance=8.0).weight() == 10
    hanging = outlook(owed=20.0, by_chance=9.0)
    assert hanging.weight() == 0 and hanging.pauses()
    assert "20 more requests than at stable wait" in str(hanging)
    assert not outlook(left=0.0, owed=20.0).pauses(), "the budget is spent: nothing to wait for"


def test_a_slow_model_has_many_waiting_by_chance() -> None:
    slow = outlook(left=5.0, owed=6.0, by_chance=20.0)
    assert slow.weight() == 1 and not slow.pauses() and "wait" not in str(slow)


READY = Health(status="ready")
POLICY = Policy.model_validate(
    {
        "interval": "1s",
        "shadow": {"min_requests": 20},
        "canary": {"ramp": {"harm_budget": 20}, "min_requests": 20},
        "gates": {"latency": None, "errors": {"margin": 0.001}},
    }
)


class Release:
    """One look a second."""

    def __init__(self, policy: Policy = POLICY) -> None:
        self.time, self.policy = 100.0, policy
        self.stable = self.candidate = self.failures = 0
        self.state = replay([first_event("r", 2, 1, self.time, policy)])

    def look(self, stable: int = 0, candidate: int = 0, pending: int = 0, failures: int = 0) -> int:
        """So many answers come in, so many wait for the candidate; the weight that follows."""
        self.time += 1
        self.stable += stable
        self.candidate += candidate
        self.failures += failures
        counts = Counts(
            time=self.time,
            epoch="a",
            stable=Arm(requests=self.stable),
            candidate=Arm(requests=self.candidate, failures=self.failures, pending=pending),
            pairs=Pairs(requests=self.candidate),
        )
        seen = Evidence(time=self.time, candidate=READY, stable=READY, counts=counts)
        found = assess(self.state, seen)
        action = decide(self.state, found)
        self.state = apply(self.state, next_event(self.state, action, found), found)
        return self.state.weight


def test_a_candidate_that_hung_is_tried_again_with_little_once_it_has_answered() -> None:
    release = Release()
    while release.state.phase != "canary":
        release.look(40, 40)
    for _ in range(4):
        assert release.look(30, 10) > 5
    assert release.look(30, 0, pending=25) == 0
    assert [release.look(40, 0, pending=25) for _ in range(20)] == [0] * 20, "it waits"
    assert release.state.phase == "canary"
    assert release.look(40, 25) == 1
    assert release.look(40, 1) > 1
    assert release.look(30, 0, pending=25) == 0
    assert release.look(30, 0) == 1, "answered or given up: what it was, the failures tell"


def test_the_weight_does_not_rise_when_traffic_ends() -> None:
    release = Release()
    while release.state.phase != "canary":
        release.look(40, 40)
    weights = [release.look(30, 10) for _ in range(2)] + [release.look() for _ in range(20)]
    assert weights == sorted(weights[:2]) + sorted(weights[2:], reverse=True)
    assert max(weights[2:]) <= weights[1] and weights[-1] <= 1


def test_a_candidate_that_nobody_reaches_has_few_users() -> None:
    """Its requests are lost on the way, and no one counts them; stable goes on answering."""
    release = Release()
    while release.state.phase != "canary":
        release.look(40, 40)
    for _ in range(4):
        assert release.look(30, 10) > 5
    weights = [release.look(30, 0) for _ in range(20)]
    assert weights == sorted(weights, reverse=True) and set(weights[RECENT:]) == {1}
    assert release.look(39, 1) > 1


def test_chance_alone_ends_no_release_that_is_proven() -> None:
    """Under much traffic, and while `min_duration` lasts, it spends any budget."""
    release = Release(LONG)
    while release.state.phase != "canary":
        release.look(4000, 4000)
    for _ in range(10):
        release.look(500, 500)
    weights = [release.look(500, 500, failures=3) for _ in range(8)]
    assert weights[0] > 1 and weights[-1] == 1
    while release.state.phase == "canary":
        release.look(990, 10)
    release.look()
    assert release.state.decision == "promoted"


def test_a_budget_that_is_spent_before_proof_ends_the_release() -> None:
    release = Release(LONG)
    while release.state.phase != "canary":
        release.look(4000, 4000)
    while release.state.phase == "canary":
        release.look(4500, 500, failures=5)
    assert release.state.decision == "held" and "harm budget are left" in release.state.reason


LONG = Policy.model_validate(
    {
        "interval": "1s",
        "shadow": {"min_requests": 20},
        "canary": {
            "ramp": {"harm_budget": 20},
            "min_duration": "30s",
            "max_duration": "5m",
            "on_inconclusive": "hold",
        },
        "gates": {"latency": None, "predictions": None, "errors": {"margin": 0.01}},
    }
)
