"""The controller in a small world of its own: what it makes real, and what survives a crash."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from delivery.world import ENOUGH, POLICY, Fatal, Killed, World, controller, released

from modelyard.delivery.evidence.counts import Counts
from modelyard.delivery.evidence.differences import Block
from modelyard.delivery.gates.trial import Trial
from modelyard.delivery.local.record import FileRecord
from modelyard.delivery.policy import Policy
from modelyard.delivery.ports import LockLost, Ports, Routes
from modelyard.delivery.release.controller import Controller, Unchanged
from modelyard.delivery.release.state import Provenance, State
from modelyard.documents import ReleaseEvent, UserError, stable_version

HOLD = POLICY.model_copy(
    update={
        "canary": POLICY.canary.model_copy(
            update={"min_requests": 10**6, "max_duration": 0.05, "on_inconclusive": "hold"}
        )
    }
)
IMPATIENT = POLICY.model_copy(
    update={"canary": POLICY.canary.model_copy(update={"max_duration": 0.2})}
)


def killed(world: World, folder: Path, policy: Policy, deadly: Callable) -> State:
    """A release of version 2 that is cut off; what the record says of it."""
    released(folder)
    first = controller(world, Fatal(folder, deadly), policy)
    with pytest.raises(Killed):
        first.run(first.open(2))
    state = controller(world, FileRecord(folder), policy).last()
    assert state is not None
    return state


@pytest.mark.parametrize(
    "place", [("deploy", 0), ("shadow", 0), ("canary", 5), ("canary", 50), ("promote", 100)]
)
def test_a_step_that_was_only_written_down_is_still_taken(tmp_path: Path, place: tuple) -> None:
    world = World()
    state = killed(world, tmp_path, POLICY, lambda event: (event.phase, event.weight) == place)
    assert (state.phase, state.weight) == place
    world.come_in(1000)  # while no controller runs, under the routes of before
    world.live.clear()
    then = controller(world, FileRecord(tmp_path))
    assert then.advance(state).decision == "promoted"
    left = [w for w in POLICY.canary.steps if w >= place[1]]
    assert all(world.live[weight] >= ENOUGH for weight in left), world.live
    assert (world.routes, world.running) == (Routes(stable=2), {2})


def test_the_tests_of_a_look_are_done_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are most of what it costs; the decision, the record and the new state go by them."""
    done, updated = [], Trial.updated

    def counted(trial: Trial, block: Block, live: bool) -> Trial:
        done.append(block)
        return updated(trial, block, live)

    monkeypatch.setattr(Trial, "updated", counted)
    released(tmp_path)
    ours = controller(World(), FileRecord(tmp_path))
    assert ours.advance(ours.open(2)).decision == "promoted"
    looks = [event for event in FileRecord(tmp_path).releases()[-1] if event.verdicts]
    assert len(done) == len(looks) > 3


def test_an_unfinished_release_is_finished_before_another_begins(tmp_path: Path) -> None:
    world = World()
    killed(world, tmp_path, POLICY, lambda event: event.weight == 5)
    with pytest.raises(UserError, match="release of version 2 .* is unfinished"):
        controller(world, FileRecord(tmp_path)).open(3)
    assert world.routes.candidate == 2, "nothing was changed"


def test_a_candidate_that_is_gone_after_a_crash_is_rolled_back(tmp_path: Path) -> None:
    world = World()
    state = killed(world, tmp_path, POLICY, lambda event: event.weight == 50)
    world.running = {1}
    ended = controller(world, FileRecord(tmp_path)).advance(state)
    assert (ended.decision, world.routes) == ("rolled_back", Routes(stable=1))
    assert "the candidate's servers ended" in ended.reason


@pytest.mark.parametrize(
    ("policy", "decision", "routes"),
    [(POLICY, "promoted", Routes(stable=2)), (HOLD, "held", Routes(stable=1, candidate=2))],
)
@pytest.mark.parametrize("again", ["advance", "roll_back"])
def test_a_decision_that_was_only_written_down_is_carried_out(
    tmp_path: Path, policy: Policy, decision: str, routes: Routes, again: str
) -> None:
    world = World()
    state = killed(world, tmp_path, policy, lambda event: event.decision == decision)
    assert world.routes != routes
    then = controller(world, FileRecord(tmp_path), policy)
    ended = then.advance(state) if again == "advance" else then.roll_back("asked for")
    assert ended == state and world.routes == routes
    assert world.running == {1, 2} - ({1} if decision == "promoted" else set())


class Fragile:
    """A port of a controller that is killed at its n-th call of any port, before or after it."""

    def __init__(self, port: object, calls: list[str], deadly: int, after: bool) -> None:
        self._port, self._calls, self._deadly, self._after = port, calls, deadly, after

    def __getattr__(self, name: str) -> Callable:
        def call(*arguments: object) -> object:
            self._calls.append(name)
            now = len(self._calls) == self._deadly
            if now and not self._after:
                raise Killed
            found = getattr(self._port, name)(*arguments)
            if now:
                raise Killed
            return found

        return call


def fragile(world: World, folder: Path, deadly: int, after: bool) -> tuple[State | None, int]:
    """A release of version 2 that is killed, if it gets so far; and how many calls it made."""
    calls: list[str] = []
    router, runtime, source, record = (
        cast(Any, Fragile(port, calls, deadly, after))
        for port in (world, world, world, FileRecord(folder))
    )
    first = Controller(Ports(router, runtime, source, record), POLICY)
    try:
        return first.advance(first.open(2)), len(calls)
    except Killed:
        return None, len(calls)


class Failing(World):
    """Every fifth answer of the candidate to users is a failure."""

    def counts(self, routes: Routes, since: float) -> Counts:
        found = super().counts(routes, since)
        failures = sum(self.live.values()) // 5
        candidate = found.candidate and found.candidate.model_copy(update={"failures": failures})
        return found.model_copy(update={"candidate": candidate})


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(("kind", "decision"), [(World, "promoted"), (Failing, "rolled_back")])
def test_killed_at_any_call_it_is_finished(
    tmp_path: Path, kind: type[World], decision: str, after: bool
) -> None:
    released(tmp_path / "whole")
    ended, calls = fragile(kind(), tmp_path / "whole", 0, after)
    assert ended is not None and ended.decision == decision and calls > 50
    for deadly in range(1, calls + 1):
        world, folder = kind(), tmp_path / f"{deadly}"
        released(folder)
        # How many looks a release takes may differ by one.
        fragile(world, folder, deadly, after)
        then = controller(world, FileRecord(folder))
        state = then.last()
        assert state is not None
        if state.phase != "done" or state.candidate != 2:
            state = then.open(2)
        state = then.advance(state)
        assert (state.candidate, state.decision) == (2, decision), deadly
        stable = 2 if decision == "promoted" else 1
        assert (world.routes, world.running) == (Routes(stable=stable), {stable}), deadly


class Broken(World):
    """Its source breaks once the candidate has users."""

    def counts(self, routes: Routes, since: float) -> Counts:
        if self.live[5]:
            raise KeyError("vanished")
        return super().counts(routes, since)


def test_the_way_back_does_not_depend_on_evidence(tmp_path: Path) -> None:
    world = Broken()
    released(tmp_path)
    running = controller(world, FileRecord(tmp_path))
    with pytest.raises(KeyError, match="vanished"):
        running.run(running.open(2))
    state = running.last()
    assert state is not None and state.decision == "rolled_back"
    assert state.reason == "KeyError('vanished')"
    assert (world.routes, world.running) == (Routes(stable=1), {1})


class Down(World):
    """Nobody counts any more once the candidate has users."""

    def counts(self, routes: Routes, since: float) -> Counts:
        if self.live[5]:
            raise ConnectionError("Envoy's statistics: NaN")
        return super().counts(routes, since)


def test_nothing_advances_while_the_source_of_counts_is_down(tmp_path: Path) -> None:
    world = Down()
    released(tmp_path)
    running = controller(world, FileRecord(tmp_path), IMPATIENT)
    ended = running.run(running.open(2))
    assert (
        ended.decision == "rolled_back" and "no evidence: Envoy's statistics: NaN" in ended.reason
    )
    assert world.live[50] == 0 and world.routes == Routes(stable=1)


@pytest.mark.parametrize(("jump", "decision"), [(3600, "rolled_back"), (-3600, "promoted")])
def test_a_clock_that_jumps_in_mid_release_brings_no_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: float, decision: str
) -> None:
    """Forward, the step's time is over; back, it begins anew. Both ways evidence is wanted."""
    world, real = World(), time.time
    monkeypatch.setattr(time, "time", lambda: real() + (jump if world.live[5] else 0))
    released(tmp_path)
    running = controller(world, FileRecord(tmp_path))
    ended = running.run(running.open(2))
    assert ended.decision == decision
    assert (world.live[50] > 0) == (decision == "promoted")
    assert decision == "promoted" or "undecided after 360" in ended.reason


def test_an_edited_count_is_refused_and_nothing_is_changed(tmp_path: Path) -> None:
    world = World()
    state = killed(world, tmp_path, POLICY, lambda event: event.weight == 50)
    path = tmp_path / "releases" / f"{state.release}.jsonl"
    *before, last = path.read_text().splitlines()
    path.write_text("\n".join([*before, last.replace('"failures":0', '"failures":1', 1)]) + "\n")
    routes = world.routes
    with pytest.raises(UserError, match=f"event {len(before)}: .* do not follow from its counts"):
        controller(world, FileRecord(tmp_path)).open(2)
    assert world.routes == routes and world.running == {1, 2}
    ended = controller(world, FileRecord(tmp_path)).roll_back("asked for")
    assert ended is not None and ended.decision == "rolled_back", "the way back is always open"
    assert world.routes == Routes(stable=1) and world.running == {1}
    after = controller(world, FileRecord(tmp_path)).last()
    assert after is not None and (after.phase, after.stable) == ("done", 1)


class Full(FileRecord):
    """On a disk that is full from some event on."""

    def append(self, event: ReleaseEvent) -> None:
        if event.weight == 50 or event.phase == "rollback":
            raise UserError("no space left on device")
        super().append(event)


def test_a_record_that_cant_be_written_keeps_no_users_at_the_candidate(tmp_path: Path) -> None:
    world = World()
    released(tmp_path)
    running = controller(world, Full(tmp_path))
    with pytest.raises(UserError, match="no space left"):
        running.run(running.open(2))
    assert (world.routes.stable, world.routes.weight) == (1, 0)
    state = running.last()
    assert state is not None and (state.phase, state.weight) == ("canary", 5)
    then = controller(world, FileRecord(tmp_path))
    assert then.advance(state).decision == "promoted", "the next one goes on"


def test_a_disk_that_cant_be_written(tmp_path: Path) -> None:
    released(tmp_path)
    record = FileRecord(tmp_path)
    event = record.releases()[0][-1]
    (record.folder / "other.jsonl").mkdir()
    with pytest.raises(UserError, match="can't write the release record .*other.jsonl"):
        record.append(event.model_copy(update={"release": "other"}))


def test_a_clock_that_was_set_back_loses_no_stable_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released(tmp_path)
    real, start = time.time, time.time()
    for version, now in [(2, 50.0), (3, 20.0)]:
        monkeypatch.setattr(time, "time", lambda now=now: now + real() - start)
        world = World()
        world.running, world.routes = {version - 1}, Routes(stable=version - 1)
        running = controller(world, FileRecord(tmp_path))
        assert running.run(running.open(version)).decision == "promoted"
        assert stable_version(tmp_path / "releases") == version


class Taken(FileRecord):
    """Its lock goes to another controller once the candidate has users."""

    def check(self) -> None:
        if self.releases()[-1][-1].weight == 50:
            raise LockLost("the lock was taken")


def test_a_controller_that_lost_its_lock_leaves_all_as_it_is(tmp_path: Path) -> None:
    world = World()
    released(tmp_path)
    running = controller(world, Taken(tmp_path))
    with pytest.raises(LockLost):
        running.run(running.open(2))
    state = running.last()
    assert state is not None and (state.phase, state.weight) == ("canary", 50)
    assert world.routes == Routes(stable=1, candidate=2, weight=50)


def test_an_unfinished_release_goes_on_by_its_own_policy_only(tmp_path: Path) -> None:
    world = World()
    state = killed(world, tmp_path, POLICY, lambda event: event.weight == 5)
    record = FileRecord(tmp_path)
    with pytest.raises(UserError, match="put argo/release.yaml back as it was"):
        controller(world, record, HOLD).open(2)
    assert controller(world, record).last() == state
    assert controller(world, record).open(2) == state


def test_what_goes_well_while_a_person_is_waited_for_is_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a fault that begins meanwhile is a block of its own."""
    monkeypatch.setattr("modelyard.delivery.release.controller._WATCHED_S", 0.0)
    released(tmp_path)
    record = FileRecord(tmp_path)
    running = controller(World(), record)
    state = running.advance(running.open(2), "canary", 50)
    before, looks = len(record.releases()[-1]), iter([True] * 5)
    state = running.watch(state, lambda: next(looks, False))
    events = record.releases()[-1][before:]
    assert [event.phase for event in events] == ["canary"] * 5 and state.weight == 50
    assert all("not approved yet; every gate is proven" in event.reason for event in events)
    assert running.advance(state).decision == "promoted"


A, B = ("sha256:" + digit * 64 for digit in "ab")


def test_a_record_says_what_it_was_begun_with(tmp_path: Path) -> None:
    released(tmp_path)
    ours = controller(World(), FileRecord(tmp_path))
    ours.open(2, Provenance(digest=A, policy_hash="0" * 64, workflow="v2-x"))
    first, *rest = FileRecord(tmp_path).releases()[-1]
    assert (first.digest, first.policy_hash, first.workflow) == (A, "0" * 64, "v2-x")
    assert not any(event.digest or event.workflow for event in rest)


def test_a_workflow_begins_one_release(tmp_path: Path) -> None:
    """Its node may be killed when all is decided, and is tried again then."""
    released(tmp_path)
    world = World()
    ours = controller(world, FileRecord(tmp_path))
    ours.open(2, Provenance(workflow="v2-x"))
    ours.roll_back("asked for")
    again = ours.open(2, Provenance(workflow="v2-x"))
    assert again.decision == "rolled_back" and len(FileRecord(tmp_path).releases()) == 2
    assert ours.open(2, Provenance(workflow="v2-y")).phase == "preflight"
    ours.roll_back("asked for")
    assert ours.open(2).phase == "preflight", "nor is a person's a workflow's"
    assert len(FileRecord(tmp_path).releases()) == 4


def test_a_version_is_one_image(tmp_path: Path) -> None:
    released(tmp_path)
    world = World()
    ours = controller(world, FileRecord(tmp_path))
    ours.open(2, Provenance(digest=A))
    with pytest.raises(UserError, match="a version's image never changes"):
        ours.open(2, Provenance(digest=B))
    ours.run(ours.open(2))
    before = world.routes, set(world.running), FileRecord(tmp_path).releases()
    with pytest.raises(UserError, match=f"was released as {A}, and is {B} now"):
        ours.open(2, Provenance(digest=B))
    for same in (A, None):
        with pytest.raises(Unchanged):
            ours.open(2, Provenance(digest=same))
    assert before == (world.routes, world.running, FileRecord(tmp_path).releases())


class Wall:
    """Reach: what is in the way for the first looks, and whether the way there still stands."""

    def __init__(self, world: World, looks: int) -> None:
        self.world, self.looks, self.standing, self.seen = world, looks, False, 0

    def problem(self, version: int) -> str:
        assert version in self.world.running and self.world.routes == Routes(stable=1)
        self.standing, self.seen = True, self.seen + 1
        return "a wall" if self.seen <= self.looks else ""

    def end(self) -> None:
        self.standing = False


@pytest.mark.parametrize(("looks", "decision"), [(3, "promoted"), (10**9, "rolled_back")])
def test_a_candidate_that_is_out_of_reach_is_not_deployed(
    tmp_path: Path, looks: int, decision: str
) -> None:
    released(tmp_path)
    world, record = World(), FileRecord(tmp_path)
    wall = Wall(world, looks)
    short = POLICY.deploy.model_copy(update={"max_duration": 0.3})
    policy = POLICY.model_copy(update={"deploy": short} if decision == "rolled_back" else {})
    release = walled(controller(world, record, policy), reach=wall)
    state = release.run(release.open(2))
    assert state.decision == decision and not wall.standing
    seen = [(event.evidence or {}).get("unreached") for event in record.releases()[-1]]
    assert "a wall" in seen
    if decision == "rolled_back":
        assert "a wall" in state.reason and world.running == {1}
        assert not sum(world.live.values()), "nobody was sent to it"
    else:
        assert wall.seen == looks + 1, "reached once is enough"


def test_the_way_to_a_candidate_is_taken_away_after_a_crash(tmp_path: Path) -> None:
    released(tmp_path)
    world = World()
    wall = Wall(world, 0)
    fatal = Fatal(tmp_path, lambda event: event.phase == "shadow")
    release = walled(controller(world, fatal), reach=wall)
    with pytest.raises(Killed):
        release.run(release.open(2))
    assert wall.standing
    walled(controller(world, FileRecord(tmp_path)), reach=wall).roll_back("asked for")
    assert not wall.standing


def test_what_the_source_cant_see_is_said_once(tmp_path: Path) -> None:
    """In the record's first line; and whoever follows is told."""
    released(tmp_path)
    record = FileRecord(tmp_path)
    told: list[str] = []
    release = walled(controller(World(), record), blind="the dead are in no count")
    release.follow = lambda state, evidence: told.append(state.reason)
    release.run(release.open(2))
    reasons = [event.reason for event in record.releases()[-1]]
    assert [n for n, each in enumerate(reasons) if "in no count" in each] == [0]
    assert told[0] == reasons[0]


def walled(release: Controller, **ports: Any) -> Controller:
    release.ports = dataclasses.replace(release.ports, **ports)
    return release
