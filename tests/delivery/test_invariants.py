"""What holds of a release whatever happens: any traffic, faults, gaps, restarts, clocks, edits."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard.delivery.evidence.counts import Arm, Counts, Pairs
from modelyard.delivery.evidence.looks import Evidence, Health
from modelyard.delivery.policy import Policy
from modelyard.delivery.ports import Routes
from modelyard.delivery.release.assess import assess
from modelyard.delivery.release.audit import check_policy
from modelyard.delivery.release.decide import decide, outlook
from modelyard.delivery.release.fold import apply, first_event, next_event, replay
from modelyard.delivery.release.state import STALE, Action, State, exposure, routes_of
from modelyard.documents import ReleaseEvent, UserError

READY = Health(status="ready")
HEALTH = [READY, *(Health(status=s, detail=s) for s in ("starting", "failed", "absent"))]
STEPS = {"steps": [10, 50], "min_requests": 20, "min_duration": "2s", "max_duration": "60s"}
RAMP = {**STEPS, "ramp": {"harm_budget": 20}}
del RAMP["steps"]


def policy(canary: dict[str, Any], gates: dict[str, Any] | None = None) -> Policy:
    shadow = {"min_requests": 20, "max_duration": "60s"}
    given = {"interval": "1s", "shadow": shadow, "canary": canary, "gates": gates or {}}
    return Policy.model_validate(given)


FIXED = policy(STEPS)
FULL = policy({**STEPS, "steps": [10, 100]}, {"scores": {}})
HOLD = policy({**STEPS, "on_inconclusive": "hold", "hold_weight": 5})
RAMPED = policy(RAMP, {"latency": None, "predictions": None})
POLICIES = [FIXED, FULL, HOLD, RAMPED]

requests = st.integers(0, 200) | st.integers(500, 3000)
share = st.floats(0, 1) | st.just(0.0)
STEP = st.fixed_dictionaries(
    {
        "wait": st.floats(0.1, 5) | st.floats(-20, 60),
        "age": st.just(0.0) | st.floats(-20, 20),
        "stable": requests,
        "candidate": requests,
        "failed": share,
        "stable_failed": share,
        "slow": share,
        "disagree": share,
        "blind": st.booleans() | st.just(False),
        "restart": st.integers(0, 20).map(lambda n: n == 0),
        "candidate_health": st.sampled_from(HEALTH) | st.just(READY),
        "stable_health": st.sampled_from(HEALTH) | st.just(READY),
    }
)
GOOD = {
    "wait": 3.0, "age": 0.0, "stable": 2000, "candidate": 2000, "failed": 0.0,
    "stable_failed": 0.0, "slow": 0.0, "disagree": 0.0, "blind": False, "restart": False,
    "candidate_health": READY, "stable_health": READY,
}  # fmt: skip
WALKS = {
    "policy": st.sampled_from(POLICIES),
    "steps": st.lists(STEP | st.just(GOOD) | st.just(GOOD), min_size=1, max_size=25),
    "stable": st.sampled_from([1, 1, None]),
}


class World:
    """Totals of both versions."""

    def __init__(self) -> None:
        self.time, self.epoch = 100.0, 0
        self.begin_anew()

    def begin_anew(self) -> None:
        self.requests, self.failures, self.slow = [0, 0], [0, 0], [0, 0]
        self.pairs, self.apart = 0, 0.0

    def counts(self, s: dict[str, Any]) -> Counts:
        self.time += s["wait"]
        if s["restart"]:
            self.epoch += 1
            self.begin_anew()
        for arm, (new, failed) in enumerate(
            [(s["stable"], s["stable_failed"]), (s["candidate"], s["failed"])]
        ):
            self.requests[arm] += new
            self.failures[arm] += int(failed * new)
            self.slow[arm] += int(arm * s["slow"] * new)
        self.pairs += s["candidate"]
        self.apart += s["disagree"] * s["candidate"]
        arms = [
            Arm(
                requests=n,
                failures=self.failures[arm],
                latency={9.0: 0, 10.0: n - self.slow[arm], 99.0: self.slow[arm]},
                scores={0.2: n // 2, 0.4: n // 4, 1.0: n // 8},
            )
            for arm, n in enumerate(self.requests)
        ]
        return Counts(
            time=self.time - s["age"],
            epoch=str(self.epoch),
            stable=arms[0],
            candidate=arms[1],
            pairs=Pairs(requests=self.pairs, disagreement=self.apart),
        )


def walk(
    policy: Policy, steps: list[dict], stable: int | None
) -> tuple[list[ReleaseEvent], list[tuple[State, Evidence, Action]], State]:
    """A release through an arbitrary world: its events, with what each was decided by."""
    world, events = World(), [first_event("r", 2, stable, 100.0, policy)]
    state, trail = replay(events), []
    for s in steps:
        counts = world.counts(s)
        evidence = Evidence(
            time=world.time,
            candidate=s["candidate_health"],
            stable=s["stable_health"] if stable else None,
            counts=None if s["blind"] else counts,
        )
        seen = assess(state, evidence)
        action = decide(state, seen)
        trail.append((state, evidence, action))
        event = next_event(state, action, seen)
        events.append(ReleaseEvent.model_validate_json(event.model_dump_json()))
        state = apply(state, events[-1], seen)
        if state.phase == "done":
            break
    return events, trail, state


def test_the_world_of_these_tests_lets_good_releases_through() -> None:
    for each in POLICIES:
        _, trail, state = walk(each, [GOOD] * 25, 1)
        assert state.decision == "promoted", state
        assert any(s.phase == "canary" for s, _, _ in trail)


@settings(max_examples=150, deadline=None)
@given(**WALKS)
def test_the_weight_never_rises_without_fresh_evidence(policy, steps, stable) -> None:
    _, trail, _ = walk(policy, steps, stable)
    for state, evidence, action in trail:
        if action.weight <= state.weight or stable is None:
            continue
        now, verdicts = evidence.counts, assess(state, evidence).verdicts
        assert now is not None and state.baseline is not None and state.last is not None
        assert abs(now.time - evidence.time) <= STALE * policy.interval
        assert now.epoch == state.last.epoch
        assert evidence.candidate.status == "ready" and evidence.stable == READY
        oldest = state.recent[0].candidate
        assert now.candidate and oldest and now.candidate.requests > oldest.requests
        assert all(verdict.outcome != "fail" for verdict in verdicts)
        if policy.canary.steps:
            seen = exposure(state, now)[1]
            wanted = policy.shadow if state.phase == "shadow" else policy.canary
            assert seen.requests >= wanted.min_requests
        if action.weight == 100:
            assert all(verdict.outcome == "pass" for verdict in verdicts)


@settings(max_examples=200, deadline=None)
@given(steps=WALKS["steps"])
def test_what_a_ramp_risks_is_left_of_its_budget(steps) -> None:
    """Live evidence for all but 1 %, for which the shadow's will do."""
    _, trail, _ = walk(RAMPED, steps, 1)
    for state, evidence, action in trail:
        if action.phase != "canary":
            continue
        ahead = outlook(state, assess(state, evidence))
        bound = ahead.bound if action.weight > 1 else min(ahead.bound, ahead.shadow_bound)
        assert 1 <= action.weight <= 50
        assert bound * ahead.requests * action.weight / 100 <= ahead.left + 1e-9


@settings(max_examples=100, deadline=None)
@given(**WALKS)
def test_a_rollback_ends_at_weight_0_with_stable_serving(policy, steps, stable) -> None:
    events, trail, state = walk(policy, steps, stable)
    for before, evidence, action in trail:
        if action.phase == "rollback":
            after = apply(before, next_event(before, action, assess(before, evidence)))
            routes = routes_of(after)
            assert (routes.stable, routes.weight, routes.mirror) == (stable, 0, False)
    if state.decision == "rolled_back":
        assert routes_of(state) == Routes(stable=stable)
        assert events[-1].stable == stable


@settings(max_examples=100, deadline=None)
@given(**WALKS)
def test_stable_serves_until_the_candidate_holds_all_and_is_healthy(policy, steps, stable) -> None:
    _, trail, _ = walk(policy, steps, stable)
    for before, evidence, action in trail:
        after = apply(before, next_event(before, action, assess(before, evidence)))
        if after.stable != stable:
            assert before.weight == 100 and before.phase == "promote"
            assert evidence.candidate.status == "ready"
        else:
            assert routes_of(after).stable == stable


@settings(max_examples=60, deadline=None)
@given(**WALKS)
def test_a_record_gives_the_same_state_from_any_prefix(policy, steps, stable) -> None:
    events, trail, state = walk(policy, steps, stable)
    for cut, (before, evidence, action) in enumerate(trail, start=1):
        again = replay(events[:cut])
        assert again == before
        seen = assess(again, evidence)
        assert seen.verdicts == assess(before, evidence).verdicts
        assert decide(again, seen) == action
    assert replay(events) == state


@settings(max_examples=50, deadline=None)
@given(policy=WALKS["policy"], steps=st.lists(STEP, max_size=10))
def test_a_release_ends(policy, steps) -> None:
    """No traffic and no counts: time runs out, and that is a decision."""
    silent = {**GOOD, "blind": True, "wait": 30.0}
    _, _, state = walk(policy, [*steps, *[silent] * 40], 1)
    assert state.phase == "done"


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"weight": 100}, "e-values do not follow"),
        ({"weight": 100, "verdicts": ()}, "without evidence"),
        ({"candidate": 9}, "candidate changed"),
        ({"stable": 9}, "stable changed"),
        ({"phase": "promote"}, "can't follow"),
        ({"phase": "done"}, "a decision belongs to the last event"),
        ({"decision": "promoted"}, "a decision belongs to the last event"),
        ({"evidence": {"time": "noon"}}, "not evidence"),
    ],
)
def test_an_edited_event_is_refused(change: dict, what: str) -> None:
    steps = [GOOD, GOOD, GOOD, {**GOOD, "candidate": 5, "disagree": 0.9}]
    events, _, _ = walk(FIXED, steps, 1)
    assert events[-1].phase == "shadow"
    edited = events[-1].model_copy(update={"phase": "canary", "weight": 10, "evidence": None})
    changed = (edited if "weight" in change else events[-1]).model_copy(update=change)
    with pytest.raises(UserError, match=what):
        replay([*events[:-1], changed])


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"decision": "promoted", "stable": 2, "weight": 100}, "promoted can't follow rollback"),
        ({"decision": "held", "weight": 60}, "held can't follow rollback"),
        ({"weight": 60}, "rolled_back has no weight 60"),
    ],
)
def test_an_edited_end_is_refused(change: dict, what: str) -> None:
    events, _, state = walk(FIXED, [GOOD, GOOD, GOOD, {**GOOD, "failed": 1.0}, GOOD], 1)
    assert state.decision == "rolled_back"
    with pytest.raises(UserError, match=what):
        replay([*events[:-1], events[-1].model_copy(update=change)])


COUNTED = [
    *((arm, total) for arm in ("stable", "candidate") for total in ("requests", "failures")),
    *(("candidate", "latency", edge) for edge in ("10.0", "99.0")),
    *((arm, "scores", edge) for arm in ("stable", "candidate") for edge in ("0.2", "0.4")),
]


@settings(max_examples=60, deadline=None)
@given(data=st.data(), by=st.integers(1, 500))
def test_counts_that_were_edited_no_longer_give_the_e_values(data, by: int) -> None:
    """Fewer failures, more requests, another histogram, at any look of an unfinished release."""
    some = {**GOOD, "stable": 300, "candidate": 100, "failed": 0.02, "stable_failed": 0.02,
            "slow": 0.02}  # fmt: skip
    events, _, state = walk(policy({**STEPS, "min_requests": 500}, {"scores": {}}), [some] * 10, 1)
    assert state.phase == "canary"
    looks = [n for n, e in enumerate(events) if e.verdicts]
    n = data.draw(st.sampled_from(looks[1:]))
    evidence = json.loads(json.dumps(events[n].evidence))
    arms = {arm: evidence["counts"][arm] for arm in ("stable", "candidate")}
    *path, last = data.draw(st.sampled_from(COUNTED))
    place = arms
    for key in path:
        place = place[key]
    place[last] += by
    edited = events[n].model_copy(update={"evidence": evidence})
    with pytest.raises(UserError, match="e-values do not follow from its counts"):
        replay([*events[:n], edited, *events[n + 1 :]])


@pytest.mark.parametrize("gate", ["errors", "latency", "predictions"])
def test_an_edited_e_value_is_refused(gate: str) -> None:
    events, _, _ = walk(FIXED, [GOOD] * 5, 1)
    n = next(n for n, event in enumerate(events) if event.verdicts)
    verdicts = tuple(
        {**v, "e": v["e"] * 1.01} if v["gate"] == gate else v for v in events[n].verdicts
    )
    edited = events[n].model_copy(update={"verdicts": verdicts})
    with pytest.raises(UserError, match="e-values do not follow"):
        replay([*events[:n], edited])


def test_a_policy_that_was_edited_in_the_record_is_refused() -> None:
    events, _, _ = walk(FIXED, [GOOD] * 5, 1)
    looser = policy(STEPS, {"errors": {"margin": 0.3}}).model_dump(mode="json")
    with pytest.raises(UserError, match="e-values do not follow"):
        replay([events[0].model_copy(update={"policy": looser}), *events[1:]])
    for broken, what in [(None, "valid dictionary"), ({"alpha": 7}, "less than 0.5")]:
        with pytest.raises(UserError, match=f"not a policy .*{what}"):
            replay([events[0].model_copy(update={"policy": broken}), *events[1:]])


def test_the_way_back_is_read_without_a_policy() -> None:
    events, _, state = walk(RAMPED, [GOOD] * 5, 1)
    assert state.phase == "canary"
    broken = events[0].model_copy(update={"policy": None})
    back = replay([broken, *events[1:]], judged=False)
    assert (back.phase, back.weight, back.stable) == ("canary", state.weight, 1)
    assert back.tests is None and back.policy == Policy()


def test_a_release_that_ended_is_read_by_any_later_version() -> None:
    events, _, state = walk(FIXED, [GOOD] * 25, 1)
    other = [event.model_copy(update={"policy": None, "verdicts": ()}) for event in events]
    assert replay(other) == state and state.decision == "promoted"


def test_a_policy_that_changes_in_the_middle_decides_nothing() -> None:
    _, trail, _ = walk(FIXED, [GOOD] * 6, 1)
    state, _, _ = trail[-1]
    assert state.phase == "canary"
    with pytest.raises(UserError, match=r"put argo/release.yaml back as it was"):
        check_policy(HOLD, state)
