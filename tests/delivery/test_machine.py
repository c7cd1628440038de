"""The state machine: its decisions, one by one."""

import dataclasses
from typing import Any

import pytest

from modelyard.delivery.evidence.counts import Arm, Counts, Pairs
from modelyard.delivery.evidence.differences import Block
from modelyard.delivery.evidence.looks import Evidence, Health
from modelyard.delivery.gates.trial import Trial
from modelyard.delivery.policy import Policy
from modelyard.delivery.release.assess import assess
from modelyard.delivery.release.decide import decide
from modelyard.delivery.release.fold import apply, first_event, next_event, replay
from modelyard.delivery.release.state import Action, State

READY, GONE = Health(status="ready"), Health(status="absent", detail="gone")
STARTING, FAILED = Health(status="starting"), Health(status="failed", detail="boom")
SETTINGS: dict[str, Any] = {
    "interval": "1s",
    "shadow": {"min_requests": 20, "max_duration": "60s"},
    "canary": {
        "steps": [10, 50, 100],
        "min_requests": 20,
        "min_duration": "2s",
        "max_duration": "60s",
    },
}
RAMP = {"ramp": {"harm_budget": 20}, "min_requests": 20, "min_duration": "2s"}
HELD = {**SETTINGS["canary"], "on_inconclusive": "hold", "hold_weight": 5}
POLICY = Policy.model_validate(SETTINGS)
HOLD = Policy.model_validate({**SETTINGS, "canary": HELD})


def arm(requests: int, failures: int = 0) -> Arm:
    return Arm(requests=requests, failures=failures, latency={9.0: 0, 10.0: requests})


def counts(
    time: float,
    stable: int,
    candidate: int,
    failures: int = 0,
    rows: int = 0,
    bad: float = 0,
    stable_failures: int = 0,
) -> Counts:
    return Counts(
        time=time,
        epoch="a",
        stable=arm(stable, stable_failures),
        candidate=arm(candidate, failures),
        pairs=Pairs(requests=rows, disagreement=bad),
    )


def look(
    time: float,
    now: Counts | None = None,
    candidate: Health = READY,
    stable: Health | None = READY,
    unreached: str = "",
) -> Evidence:
    return Evidence(time=time, counts=now, candidate=candidate, stable=stable, unreached=unreached)


def looked_at(policy: Policy, *blocks: tuple[Arm, Arm]) -> Trial:
    tests = Trial.begin(policy).go_live()
    for stable, candidate in blocks:
        tests = tests.updated(Block(stable, candidate), live=True)
    return tests


ZERO = counts(100.0, 0, 0)
SHADOW = State("r", 2, 1, "shadow", 0, since=100.0, ready=100.0, baseline=ZERO, last=ZERO,
               recent=(ZERO,), policy=POLICY, tests=Trial.begin(POLICY))  # fmt: skip
CANARY = dataclasses.replace(SHADOW, phase="canary", weight=10, tests=looked_at(POLICY))
BEFORE = counts(100.0, 3000, 3000)
PROVEN = looked_at(POLICY, (arm(1000), arm(1000)), (arm(2000), arm(2000)))
LAST = dataclasses.replace(CANARY, weight=50, baseline=BEFORE, last=BEFORE, recent=(BEFORE,))
DONE = dataclasses.replace(LAST, tests=PROVEN)
FULL = dataclasses.replace(DONE, weight=100, tests=PROVEN.at_full())
DEPLOY = State("r", 2, 1, "deploy", 0, since=100.0)
FIRST = dataclasses.replace(DEPLOY, stable=None)
PROMOTE = State("r", 2, 1, "promote", 100, since=100.0)
BACK = State("r", 2, 1, "rollback", 0, since=100.0, reason="errors: many")


@pytest.mark.parametrize(
    ("state", "evidence", "expected"),
    [
        (State("r", 2, 1), look(100), ("deploy", 0, None)),
        (DEPLOY, look(101, candidate=STARTING), ("deploy", 0, None)),
        (DEPLOY, look(101), ("shadow", 0, None)),
        (DEPLOY, look(101, stable=STARTING), ("deploy", 0, None)),
        (DEPLOY, look(101, candidate=FAILED), ("rollback", 0, None)),
        (DEPLOY, look(300, candidate=STARTING), ("rollback", 0, None)),
        (DEPLOY, look(300, stable=STARTING), ("rollback", 0, None)),
        # ready, but nobody gets through to it: no deployed version
        (DEPLOY, look(101, unreached="a wall"), ("deploy", 0, None)),
        (DEPLOY, look(300, unreached="a wall"), ("rollback", 0, None)),
        (FIRST, look(101, stable=None), ("promote", 100, None)),
        (FIRST, look(101, stable=None, unreached="a wall"), ("deploy", 0, None)),
        (FIRST, look(300, stable=None, unreached="a wall"), ("rollback", 0, None)),
        # the shadow: requests, pairs, and their agreement
        (SHADOW, look(103), ("shadow", 0, None)),
        (SHADOW, look(103, counts(103, 19, 19, rows=19)), ("shadow", 0, None)),
        (SHADOW, look(103, counts(103, 30, 30, rows=19)), ("shadow", 0, None)),
        (SHADOW, look(103, counts(103, 30, 30, rows=40)), ("canary", 10, None)),
        (SHADOW, look(103, counts(103, 30, 30, rows=40, bad=7)), ("shadow", 0, None)),
        (SHADOW, look(103, counts(103, 30, 30, rows=40, bad=40)), ("rollback", 0, None)),
        (SHADOW, look(103, counts(103, 30, 30, failures=30)), ("rollback", 0, None)),
        (SHADOW, look(161, counts(161, 5, 5, rows=5)), ("rollback", 0, None)),
        # a step: never early, never on bad counts
        (CANARY, look(103, counts(103, 180, 20)), ("canary", 50, None)),
        (CANARY, look(101, counts(101, 180, 20)), ("canary", 10, None)),
        (CANARY, look(103, counts(103, 180, 19)), ("canary", 10, None)),
        (CANARY, look(103, counts(103, 0, 20)), ("canary", 10, None)),
        (CANARY, look(103, counts(97, 180, 20)), ("canary", 10, None)),
        (CANARY, look(103, counts(109, 180, 20)), ("canary", 10, None)),
        (CANARY, look(103, counts(103, 180, 20, 1)), ("canary", 10, None)),
        (CANARY, look(103), ("canary", 10, None)),
        (CANARY, look(103, counts(103, 180, 20), stable=STARTING), ("canary", 10, None)),
        (CANARY, look(103, counts(103, 180, 20), candidate=STARTING), ("canary", 10, None)),
        (CANARY, look(103, counts(103, 180, 20), candidate=FAILED), ("rollback", 0, None)),
        (CANARY, look(103, counts(103, 180, 20), candidate=GONE), ("rollback", 0, None)),
        (CANARY, look(103, counts(103, 180, 12, 12)), ("rollback", 0, None)),
        (CANARY, look(161, counts(161, 180, 3)), ("rollback", 0, None)),
        (CANARY, look(161), ("rollback", 0, None)),
        # all users: only after proof
        (LAST, look(103, counts(103, 3090, 3090)), ("canary", 50, None)),
        (LAST, look(161, counts(161, 3090, 3090)), ("rollback", 0, None)),
        (DONE, look(103, counts(103, 3090, 3090)), ("canary", 100, None)),
        (DONE, look(103, counts(103, 3090, 3019)), ("canary", 50, None)),
        # what hits both is not the candidate's fault
        (LAST, look(103, counts(103, 3090, 3090, 45, stable_failures=45)), ("canary", 50, None)),
        # at full weight stable of before is the measure, whatever became of its stragglers
        (FULL, look(103, counts(103, 3000, 3020)), ("promote", 100, None)),
        (FULL, look(103, counts(103, 3001, 3020, stable_failures=1)), ("promote", 100, None)),
        (FULL, look(103, counts(103, 3000, 3020, 1)), ("canary", 100, None)),
        (FULL, look(103, counts(103, 3000, 3500, 250)), ("rollback", 0, None)),
        (FULL, look(103, counts(103, 3001, 3500, 250, stable_failures=1)), ("rollback", 0, None)),
        (FULL, look(103, counts(103, 3001, 3500, 250)), ("rollback", 0, None)),
        # the end
        (PROMOTE, look(101), ("done", 100, "promoted")),
        (dataclasses.replace(PROMOTE, stable=None), look(101), ("done", 100, "bootstrapped")),
        (PROMOTE, look(101, candidate=STARTING), ("promote", 100, None)),
        (PROMOTE, look(101, candidate=FAILED), ("rollback", 0, None)),
        (BACK, look(101), ("done", 0, "rolled_back")),
        (BACK, look(101, stable=STARTING), ("rollback", 0, None)),
        (dataclasses.replace(BACK, stable=None), look(101), ("done", 0, "rolled_back")),
    ],
)  # fmt: skip
def test_decisions(state: State, evidence: Evidence, expected: tuple) -> None:
    action = decided(state, evidence)
    assert (action.phase, action.weight, action.decision) == expected, action
    assert action.reason


def test_what_other_evidence_says_is_not_taken_for_what_this_says() -> None:
    evidence, worse = (look(103, counts(103, 180, 20, failed)) for failed in (0, 12))
    seen = assess(CANARY, evidence)
    event = next_event(CANARY, Action("canary", 10, "watching"), seen)
    after = apply(CANARY, event, assess(CANARY, worse))
    assert after.tests is not None and after.tests.verdicts(shadow=False) == seen.verdicts


def test_a_release_goes_by_the_policy_that_it_began_with() -> None:
    impatient = Policy.model_validate({**SETTINGS, "deploy": {"max_duration": "10s"}})
    seen = look(111, stable=STARTING)
    assert decided(BACK, seen).phase == "rollback"
    assert decided(dataclasses.replace(BACK, policy=impatient), seen).decision == "rolled_back"


def test_a_first_version_needs_no_stable() -> None:
    state = dataclasses.replace(DEPLOY, stable=None)
    action = decided(state, look(101, stable=None))
    assert (action.phase, action.weight) == ("promote", 100)


@pytest.mark.parametrize(
    ("state", "weight"), [(SHADOW, 0), (CANARY, 5), (dataclasses.replace(CANARY, weight=3), 3)]
)
def test_an_undecided_release_is_held_at_the_weight_of_the_policy(state, weight) -> None:
    state = dataclasses.replace(state, policy=HOLD)
    action = decided(state, look(161, counts(161, 5, 5)))
    assert action == Action("done", weight, action.reason, "held")
    assert "5 of 20 requests" in action.reason


def test_a_fault_in_a_long_step_is_not_weighed_against_what_went_well() -> None:
    """10,000 good answers do not buy the right to fail 20 in a row."""
    state = CANARY
    for tick in range(1, 10):
        state = feed(state, look(100 + tick, counts(100 + tick, 9_000 * tick, 1_000 * tick)))
    action = decided(state, look(110, counts(110, 81_180, 9_020, failures=20)))
    assert action.phase == "rollback" and "errors" in action.reason


def test_an_undecided_release_says_how_much_more_would_decide() -> None:
    """Whatever else it waited for."""
    state = CANARY
    for tick in range(1, 9):
        state = feed(state, look(100 + tick, counts(100 + tick, 50 * tick, tick)))
    action = decided(state, look(161, counts(161, 500, 12)))
    assert action.phase == "rollback"
    assert "undecided after 61 s: 12 of 20 requests; errors: not proven yet" in action.reason
    assert " more requests would decide" in action.reason


def test_nothing_advances_on_silence() -> None:
    """Plenty of requests at first, then none: whatever there is to see, nobody sees it."""
    policy = POLICY.model_copy(update={"canary": LONG})
    state = dataclasses.replace(CANARY, policy=policy)
    now = counts(101, 1000, 1000)
    for tick in range(1, 20):
        action = decided(state, look(100 + tick, at(now, 100 + tick)))
        assert action.phase == "canary" and action.weight == 10
        state = feed(state, look(100 + tick, at(now, 100 + tick)))
    action = decided(state, look(120, at(now, 120)))
    assert (action.weight, action.reason) == (10, "no requests in the last 8 looks")
    one_more = counts(121, 1009, 1001)
    assert decided(state, look(121, one_more)).weight == 50, "thin traffic is traffic"


@pytest.mark.parametrize("state", [CANARY, DONE])
def test_a_weight_rises_on_answers_of_this_moment_only(state: State) -> None:
    """Enough was answered before the step had lasted long enough; then traffic stopped."""
    start = state.last
    assert start is not None and start.stable is not None and start.candidate is not None
    enough = counts(101, start.stable.requests + 400, start.candidate.requests + 400)
    state = feed(state, look(101, enough))
    action = decided(state, look(103, at(enough, 103)))
    assert (action.phase, action.weight) == ("canary", state.weight)
    assert action.reason == "no request reached the candidate since the last look"
    more = counts(103, start.stable.requests + 401, start.candidate.requests + 401)
    assert decided(state, look(103, more)).weight > state.weight


LONG = POLICY.canary.model_copy(update={"min_duration": 15.0})


def at(seen: Counts, time: float) -> Counts:
    return seen.model_copy(update={"time": time})


@pytest.mark.parametrize("start", [SHADOW, CANARY])
def test_a_candidate_that_hangs_does_not_keep_its_users(start: State) -> None:
    policy = Policy.model_validate({**SETTINGS, "deploy": {"max_duration": "10s"}})
    state = feed(dataclasses.replace(start, policy=policy), look(105))
    for tick in range(106, 116):
        hung = look(tick, candidate=STARTING)
        assert decided(state, hung).phase == start.phase
        state = feed(state, hung)
    action = decided(state, look(116, candidate=STARTING))
    assert action.phase == "rollback" and "not been ready for 11 s" in action.reason
    back = feed(state, look(116))
    assert decided(back, look(117, candidate=STARTING)).phase == start.phase


def test_counts_that_begin_anew_are_no_evidence() -> None:
    """Envoy was restarted: the totals are lower, or of another epoch."""
    full = feed(CANARY, look(102, counts(102, 170, 15)))
    anew = counts(103, 300, 50).model_copy(update={"epoch": "b"})
    assert decided(full, look(103, anew)).weight == 10
    after = feed(full, look(103, anew))
    assert after.baseline == anew and after.recent == (anew,)
    lower = counts(104, 3, 50)
    assert decided(full, look(104, lower)).weight == 10


def test_a_clock_set_back_does_not_stretch_a_phase() -> None:
    state = feed(CANARY, look(50))
    assert state.since == 50
    assert decided(state, look(111)).phase == "rollback"


def decided(state: State, evidence: Evidence) -> Action:
    return decide(state, assess(state, evidence))


def feed(state: State, evidence: Evidence) -> State:
    """One turn that stays where it is, as the controller writes it."""
    action = Action(state.phase, state.weight, "watching")
    return apply(state, next_event(state, action, assess(state, evidence)))


@pytest.mark.parametrize("canary", [SETTINGS["canary"], RAMP])
def test_copies_that_were_scraped_late_are_no_live_traffic(canary: dict[str, Any]) -> None:
    """Counts are 15 s old, as of a Prometheus: after the shadow many still come in."""
    settings = {**SETTINGS, "interval": "5s", "canary": {**canary, "max_duration": "10m"}}
    policy = Policy.model_validate(settings)
    first = first_event("r", 2, 1, 0.0, policy)
    state, age, began = replay([first]), 15.0, None
    for time in range(5, 65, 5):
        # 100 requests a second: copied until the shadow ends, after it 1 in 100 at the candidate.
        then = max(0.0, time - age)
        copied = then if began is None else min(then, began)
        live = then - copied
        now = counts(then, round(100 * copied + 99 * live), round(100 * copied + live),
                     rows=round(100 * copied))  # fmt: skip
        evidence = look(float(time), now)
        action = decided(state, evidence)
        state = apply(state, next_event(state, action, assess(state, evidence)))
        if state.phase == "canary" and began is None:
            began = float(time)
        assert state.tests is None or state.phase == "shadow" or state.tests.bets.seen[0][2] <= live
        assert state.weight <= max(1, policy.canary.steps[0] if policy.canary.steps else 1)
    assert began is not None and state.baseline is not None and state.baseline.time >= began
    assert state.tests is not None and state.tests.bets.seen[0][2] > 0


def test_what_is_in_the_way_is_why_a_release_goes_back() -> None:
    back = decided(DEPLOY, look(300, unreached="a wall"))
    assert "after 200 s: a wall" in back.reason and "first" not in back.reason
    first = decided(FIRST, look(300, stable=None, unreached="a wall"))
    assert "a wall" in first.reason and "nobody is served, as before" in first.reason
