"""The state machine: a table of its decisions, and what holds whatever happens."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard.delivery import machine
from modelyard.delivery.counts import Block
from modelyard.delivery.gates import Trial
from modelyard.delivery.machine import Action, State, decide
from modelyard.delivery.policy import Policy
from modelyard.delivery.ports import Arm, Counts, Evidence, Health, Pairs
from modelyard.documents import ReleaseEvent, UserError

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
) -> Evidence:
    return Evidence(time=time, counts=now, candidate=candidate, stable=stable)


def looked_at(policy: Policy, *blocks: tuple[Arm, Arm]) -> Trial:
    tests = Trial.begin(policy).go_live()
    for stable, candidate in blocks:
        tests = tests.after(Block(stable, candidate), live=True)
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
    action = decide(POLICY, evidence, state)
    assert (action.phase, action.weight, action.decision) == expected, action
    assert action.reason


def test_a_first_version_needs_no_stable() -> None:
    state = dataclasses.replace(DEPLOY, stable=None)
    action = decide(POLICY, look(101, stable=None), state)
    assert (action.phase, action.weight) == ("promote", 100)


@pytest.mark.parametrize(
    ("state", "weight"), [(SHADOW, 0), (CANARY, 5), (dataclasses.replace(CANARY, weight=3), 3)]
)
def test_an_undecided_release_is_held_at_the_weight_of_the_policy(state, weight) -> None:
    state = dataclasses.replace(state, policy=HOLD)
    action = decide(HOLD, look(161, counts(161, 5, 5)), state)
    assert action == Action("done", weight, action.reason, "held")
    assert "5 of 20 requests" in action.reason


def test_a_fault_in_a_long_step_is_not_weighed_against_what_went_well() -> None:
    """10,000 good answers do not buy the right to fail 20 in a row."""
    state = CANARY
    for tick in range(1, 10):
        state = feed(state, look(100 + tick, counts(100 + tick, 9_000 * tick, 1_000 * tick)))
    action = decide(POLICY, look(110, counts(110, 81_180, 9_020, failures=20)), state)
    assert action.phase == "rollback" and "errors" in action.reason


def test_nothing_advances_on_silence() -> None:
    """Plenty of requests at first, then none: whatever there is to see, nobody sees it."""
    policy = POLICY.model_copy(update={"canary": LONG})
    state = dataclasses.replace(CANARY, policy=policy)
    now = counts(101, 1000, 1000)
    for tick in range(1, 20):
        action = decide(policy, look(100 + tick, at(now, 100 + tick)), state)
        assert action.phase == "canary" and action.weight == 10
        state = feed(state, look(100 + tick, at(now, 100 + tick)))
    action = decide(policy, look(120, at(now, 120)), state)
    assert (action.weight, action.reason) == (10, "no requests in the last 8 looks")
    one_more = counts(121, 1009, 1001)
    assert decide(policy, look(121, one_more), state).weight == 50, "thin traffic is traffic"


LONG = POLICY.canary.model_copy(update={"min_duration": 15.0})


def at(seen: Counts, time: float) -> Counts:
    return seen.model_copy(update={"time": time})


@pytest.mark.parametrize("start", [SHADOW, CANARY])
def test_a_candidate_that_hangs_does_not_keep_its_users(start: State) -> None:
    policy = Policy.model_validate({**SETTINGS, "deploy": {"max_duration": "10s"}})
    state = feed(dataclasses.replace(start, policy=policy), look(105))
    for tick in range(106, 116):
        hung = look(tick, candidate=STARTING)
        assert decide(policy, hung, state).phase == start.phase
        state = feed(state, hung)
    action = decide(policy, look(116, candidate=STARTING), state)
    assert action.phase == "rollback" and "not been ready for 11 s" in action.reason
    back = feed(state, look(116))
    assert decide(policy, look(117, candidate=STARTING), back).phase == start.phase


def test_counts_that_begin_anew_are_no_evidence() -> None:
    """Envoy was restarted: the totals are lower, or of another epoch."""
    full = feed(CANARY, look(102, counts(102, 170, 15)))
    anew = counts(103, 300, 50).model_copy(update={"epoch": "b"})
    assert decide(POLICY, look(103, anew), full).weight == 10
    after = feed(full, look(103, anew))
    assert after.baseline == anew and after.recent == (anew,)
    lower = counts(104, 3, 50)
    assert decide(POLICY, look(104, lower), full).weight == 10


def test_a_clock_set_back_does_not_stretch_a_phase() -> None:
    state = feed(CANARY, look(50))
    assert state.since == 50
    assert decide(POLICY, look(111), state).phase == "rollback"


def feed(state: State, evidence: Evidence) -> State:
    """One turn that stays where it is, as the controller writes it."""
    action = Action(state.phase, state.weight, "watching")
    return machine.apply(state, machine.event(state, action, evidence))


health = st.sampled_from([READY, STARTING, FAILED, GONE])
step = st.fixed_dictionaries(
    {
        "wait": st.floats(0.1, 30),
        "stable": st.integers(0, 200),
        "candidate": st.integers(0, 60),
        "failed": st.floats(0, 1) | st.just(0.0),
        "disagree": st.floats(0, 1) | st.just(0.0),
        "blind": st.booleans() | st.just(False),
        "restart": st.integers(0, 20).map(lambda n: n == 0),
        "candidate_health": health | st.just(READY),
        "stable_health": health | st.just(READY),
    }
)
good = {"wait": 3.0, "stable": 100, "candidate": 40, "failed": 0.0, "disagree": 0.0,
        "blind": False, "restart": False, "candidate_health": READY,
        "stable_health": READY}  # fmt: skip


def walk(policy: Policy, steps: list[dict], stable: int | None):
    """A release through an arbitrary world: its events, with what each was decided by."""
    events = [machine.begin("r", 2, stable, 100.0, policy)]
    state, now, epoch = machine.replay(events), 100.0, 0
    totals = {"stable": 0, "candidate": 0, "failures": 0, "rows": 0}
    bad = 0.0
    trail: list[tuple[State, Evidence, Action]] = []
    for s in steps:
        now += s["wait"]
        if s["restart"]:
            epoch, totals, bad = epoch + 1, dict.fromkeys(totals, 0), 0.0
        totals["stable"] += s["stable"]
        totals["candidate"] += s["candidate"]
        totals["failures"] += int(s["failed"] * s["candidate"])
        totals["rows"] += s["candidate"]
        bad += s["disagree"] * s["candidate"]
        seen = counts(now, totals["stable"], totals["candidate"], totals["failures"],
                      totals["rows"], bad)  # fmt: skip
        seen = seen.model_copy(update={"epoch": str(epoch)})
        evidence = look(
            now,
            None if s["blind"] else seen,
            candidate=s["candidate_health"],
            stable=s["stable_health"] if stable else None,
        )
        action = decide(policy, evidence, state)
        trail.append((state, evidence, action))
        event = machine.event(state, action, evidence)
        events.append(ReleaseEvent.model_validate_json(event.model_dump_json()))
        state = machine.apply(state, events[-1])
        if state.phase == "done":
            break
    return events, trail, state


walks = {
    "policy": st.sampled_from([POLICY, HOLD]),
    "steps": st.lists(step | st.just(good), min_size=1, max_size=25),
    "stable": st.sampled_from([1, 1, None]),
}


@settings(max_examples=150, deadline=None)
@given(**walks)
def test_the_weight_never_rises_without_evidence(policy, steps, stable) -> None:
    _, trail, _ = walk(policy, steps, stable)
    for state, evidence, action in trail:
        if action.weight > state.weight and stable is not None and action.phase != "done":
            now = evidence.counts
            assert now is not None and state.baseline is not None
            assert abs(now.time - evidence.time) <= machine.STALE * policy.interval
            seen = machine.exposure(state, now)[1]
            wanted = policy.shadow if state.phase == "shadow" else policy.canary
            assert seen.requests >= wanted.min_requests
            assert evidence.candidate.status == "ready"


@settings(max_examples=150, deadline=None)
@given(**walks)
def test_a_rollback_ends_at_weight_0_with_stable_serving(policy, steps, stable) -> None:
    events, trail, state = walk(policy, steps, stable)
    for before, evidence, action in trail:
        if action.phase == "rollback":
            after = machine.apply(before, machine.event(before, action, evidence))
            routes = machine.routes(after)
            assert (routes.stable, routes.weight, routes.mirror) == (stable, 0, False)
    if state.decision == "rolled_back":
        assert machine.routes(state) == machine.Routes(stable=stable)
        assert events[-1].stable == stable


@settings(max_examples=150, deadline=None)
@given(**walks)
def test_stable_serves_until_the_candidate_holds_all_and_is_healthy(policy, steps, stable) -> None:
    _, trail, _ = walk(policy, steps, stable)
    for before, evidence, action in trail:
        after = machine.apply(before, machine.event(before, action, evidence))
        if after.stable != stable:
            assert before.weight == 100 and before.phase == "promote"
            assert evidence.candidate.status == "ready"
        else:
            assert machine.routes(after).stable == stable


@settings(max_examples=100, deadline=None)
@given(**walks)
def test_a_record_gives_the_same_state_from_any_prefix(policy, steps, stable) -> None:
    events, trail, state = walk(policy, steps, stable)
    for cut, (before, _, _) in enumerate(trail, start=1):
        assert machine.replay(events[:cut]) == before
    assert machine.replay(events) == state


@settings(max_examples=50, deadline=None)
@given(policy=st.sampled_from([POLICY, HOLD]), steps=st.lists(step, max_size=10))
def test_a_release_ends(policy, steps) -> None:
    """No traffic and no counts: time runs out, and that is a decision."""
    silent = {**good, "blind": True, "wait": 30.0}
    _, _, state = walk(policy, [*steps, *[silent] * 40], 1)
    assert state.phase == "done"


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"weight": 100}, "without evidence"),
        ({"candidate": 9}, "candidate changed"),
        ({"stable": 9}, "stable changed"),
        ({"phase": "promote"}, "can't follow"),
        ({"phase": "done"}, "a decision belongs to the last event"),
        ({"decision": "promoted"}, "a decision belongs to the last event"),
        ({"evidence": {"time": "noon"}}, "not evidence"),
    ],
)
def test_an_edited_event_is_refused(change: dict, what: str) -> None:
    events, _, _ = walk(POLICY, [good, good, {**good, "blind": True}], 1)
    assert events[-1].phase == "shadow"
    edited = events[-1].model_copy(update={"phase": "canary", "weight": 10, "evidence": None})
    changed = (edited if "weight" in change else events[-1]).model_copy(update=change)
    with pytest.raises(UserError, match=what):
        machine.replay([*events[:-1], changed])
