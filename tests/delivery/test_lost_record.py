"""Whatever is left of the record and whoever is ready: nobody who is answered loses that."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from delivery.world import POLICY, Fatal, Killed, World, controller, released
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelyard.delivery.evidence.looks import Health
from modelyard.delivery.local.record import FileRecord
from modelyard.delivery.policy import Policy
from modelyard.delivery.ports import Routes
from modelyard.delivery.release.controller import Controller, Unchanged
from modelyard.delivery.release.shares import Kept, Unexplained
from modelyard.documents import UserError

HASTY = Policy.model_validate(
    POLICY.model_dump(mode="json") | {"deploy": {"max_duration": "50ms"}}
    | {"canary": POLICY.canary.model_dump(mode="json") | {"max_duration": "300ms"}}
    | {"shadow": POLICY.shadow.model_dump(mode="json") | {"max_duration": "300ms"}}
)  # fmt: skip


class Seen(World):
    """Some of its versions have no server that is ready. It is asked after each change."""

    def __init__(self, routes: Routes, running: set[int]) -> None:
        super().__init__()
        self.routes, self.running = routes, running
        self.silent: set[int] = set()

    def health(self, version: int) -> Health:
        if version not in self.running:
            return Health(status="absent", ready=0)
        ready = version not in self.silent
        return Health(status="ready" if ready else "starting", ready=int(ready))

    def answered(self) -> int:
        """Of 100 users."""
        return sum(w for v, w in self.serving().items() if self.health(v).answers)

    def route(self, routes: Routes) -> None:
        before = self.answered()
        super().route(routes)
        assert self.answered() >= before, routes

    def stop(self, version: int) -> None:
        assert version not in self.serving()
        self.running.discard(version)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path) -> None:
    """As `lock` makes it."""
    (tmp_path / "releases").mkdir()


def two_releases(folder: Path, world: World | None = None) -> World:
    """Version 1 was stable, version 2 is."""
    world = world or Seen(Routes(stable=1), {1})
    released(folder)
    first = controller(world, FileRecord(folder))
    assert first.run(first.open(2)).decision == "promoted"
    return world


def files(folder: Path) -> list[Path]:
    return sorted((folder / "releases").glob("*.jsonl"), key=lambda p: p.read_text()[:30])


def test_without_a_record_who_serves_is_stable(tmp_path: Path) -> None:
    world = Seen(Routes(stable=2), {1, 2})
    told = []
    running = Controller(
        controller(world, FileRecord(tmp_path)).ports,
        POLICY,
        lambda state, evidence: told.append((state.candidate, state.decision, state.reason)),
    )
    state = running.open(3)
    assert (state.stable, world.routes, world.running) == (2, Routes(stable=2), {2})
    assert told == [(2, "bootstrapped", "version 2 serves all users, and there was no record")]
    adopted, _ = running.ports.record.releases()
    assert {event.reason for event in adopted} == {told[0][2]}
    assert running.run(state).decision == "promoted" and world.routes == Routes(stable=3)


def test_without_a_record_the_version_that_serves_is_asked_for(tmp_path: Path) -> None:
    """As in the workflow that merges a way back: each step says so, and none does anything."""
    world = Seen(Routes(stable=2), {2})
    running = controller(world, FileRecord(tmp_path))
    with pytest.raises(Unchanged, match="version 2 is the stable version already"):
        running.open(2)
    events = running.ports.record.releases()
    assert running.advance(running.begun(2), "canary").decision == "bootstrapped"
    assert running.go_back(2, "asked for") == "version 2: bootstrapped"
    assert (world.routes, world.running) == (Routes(stable=2), {2})
    assert running.ports.record.releases() == events
    with pytest.raises(UserError, match="no release of version 3 has begun"):
        running.begun(3)


def test_a_version_that_is_stable_while_another_is_released(tmp_path: Path) -> None:
    world = two_releases(tmp_path)
    running = controller(world, FileRecord(tmp_path))
    running.advance(running.open(3), "canary", 5)
    with pytest.raises(UserError, match="no release of version 2 has begun"):
        running.begun(2)
    assert "nothing to roll back" in running.go_back(2, "asked for")
    assert world.routes == Routes(stable=2, candidate=3, weight=5)


def test_a_record_that_is_lost_in_mid_canary(tmp_path: Path) -> None:
    world = Seen(Routes(stable=1, candidate=2, weight=25), {1, 2})
    running = controller(world, FileRecord(tmp_path))
    with pytest.raises(Unexplained, match=r"version 1 \(75 %\) and version 2 \(25 %\)"):
        running.open(2)
    with pytest.raises(UserError, match="no release of version 2 has begun"):
        running.begun(2)
    assert world.routes.weight == 25 and world.running == {1, 2}, "nothing was changed"
    said = running.go_back(2, "asked for")
    assert "there is no record" in said and "now all users get version 1" in said
    assert (world.routes, world.running) == (Routes(stable=1), {1, 2})
    assert "version 2 gets no users" in running.go_back(2, "asked for")
    assert running.open(2).stable == 1


def test_a_record_that_goes_while_a_step_runs(tmp_path: Path) -> None:
    class Gone(FileRecord):
        def check(self) -> None:
            if world.routes.weight == 50:
                for path in files(tmp_path):
                    path.unlink()

    world = Seen(Routes(stable=1), {1})
    released(tmp_path)
    running = controller(world, Gone(tmp_path))
    with pytest.raises(UserError, match="the release record .* is gone"):
        running.run(running.open(2))
    assert world.routes == Routes(stable=1) and files(tmp_path) == []


@pytest.mark.parametrize(
    ("weight", "silent", "said"),
    [
        (25, {1}, r"\(ready: none\)"),
        (100, {1}, r"\(ready: none\)"),
        # It may be a candidate that nothing is proven of, and version 2 what is stable.
        (100, set(), r"`modelyard release adopt .*\(ready: 1\)"),
    ],
)
def test_nobody_else_is_known_to_go_back_to(
    tmp_path: Path, weight: int, silent: set[int], said: str
) -> None:
    world = Seen(Routes(stable=1, candidate=2, weight=weight), {1, 2})
    world.silent = silent
    serving = world.serving()
    running = controller(world, FileRecord(tmp_path))
    with pytest.raises(Kept, match=f"version 2 keeps them, .*{said}"):
        running.go_back(2, "asked for")
    assert world.serving() == serving
    world.silent = set()
    running.adopt(1)
    assert world.routes == Routes(stable=1)


def test_all_users_go_back_to_what_an_older_release_made_stable(tmp_path: Path) -> None:
    world = two_releases(tmp_path)
    dying = controller(world, Fatal(tmp_path, lambda event: event.phase == "done"))
    with pytest.raises(Killed):
        dying.run(dying.open(3))
    files(tmp_path)[-1].unlink()
    assert world.serving() == {3: 100} and world.running == {2, 3}
    assert "now all users get version 2" in dying.go_back(3, "asked for")
    assert world.routes == Routes(stable=2)


def test_the_newest_record_alone_is_lost(tmp_path: Path) -> None:
    """By what is left version 1 is stable, whose servers were stopped long ago."""
    world = two_releases(tmp_path)
    files(tmp_path)[-1].unlink()
    running = controller(world, FileRecord(tmp_path))
    with pytest.raises(Unexplained, match=r"record \(r0\) version 1 .*--version 2`"):
        running.open(3)
    assert (world.routes, world.running) == (Routes(stable=2), {2})
    with pytest.raises(UserError, match=r"can't be adopted.*that have: 2\)"):
        running.adopt(1)
    assert running.adopt(2) == []
    assert (world.routes, world.running) == (Routes(stable=2), {2})
    assert running.run(running.open(3)).stable == 3


def test_the_newest_record_alone_is_lost_in_mid_canary(tmp_path: Path) -> None:
    world = two_releases(tmp_path)
    running = controller(world, FileRecord(tmp_path))
    running.advance(running.open(3), "canary", 50)
    files(tmp_path)[-1].unlink()
    with pytest.raises(Unexplained, match="users get version 2"):
        running.open(3)
    assert "now all users get version 2" in running.go_back(3, "asked for")
    assert running.run(running.open(3)).decision == "promoted"


BROKEN: dict[str, Callable[[list[str]], list[str]]] = {
    "removed": lambda lines: [*lines[:3], *lines[4:]],
    "doubled": lambda lines: [*lines[:3], *lines[2:]],
    "edited": lambda lines: [*lines[:3], lines[3].replace('"phase":"', '"phase":"no '), *lines[4:]],
    "out of its order": lambda lines: [*lines[:2], *lines[2:][::-1]],
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_record(tmp_path: Path, how: str) -> None:
    world = two_releases(tmp_path)
    running = controller(world, FileRecord(tmp_path))
    running.advance(running.open(3), "canary", 5)
    path = files(tmp_path)[-1]
    text = "\n".join([*BROKEN[how](path.read_text().splitlines()), ""])
    path.write_text(text)
    for refused in (running.open, running.begun):
        with pytest.raises(UserError):
            refused(3)
    assert world.routes == Routes(stable=2, candidate=3, weight=5)
    said = running.go_back(3, "asked for")
    assert "the record can't be read" in said and "now all users get version 2" in said
    assert path.read_text() == text
    (aside,) = running.adopt(2)
    assert Path(aside).read_text() == text and not path.exists(), "kept, not removed"
    assert len(files(tmp_path)) == 3, "the older ones, and the adoption"
    assert running.run(running.open(3)).decision == "promoted"


def test_a_release_that_nobody_ends_is_set_aside(tmp_path: Path) -> None:
    """And the servers that it left over are stopped."""
    world = two_releases(tmp_path)
    running = controller(world, FileRecord(tmp_path))
    running.advance(running.open(3), "canary", 5)
    world.routes = Routes(stable=4, candidate=3, weight=5)  # by hand
    world.running.add(4)
    with pytest.raises(Unexplained):
        running.open(3)
    (aside,) = running.adopt(4)
    assert aside.endswith("-v3.jsonl.set-aside")
    assert (world.routes, world.running) == (Routes(stable=4), {4})


def test_a_record_that_is_sound_is_not_overruled(tmp_path: Path) -> None:
    world = two_releases(tmp_path)
    running = controller(world, FileRecord(tmp_path))
    events = running.ports.record.releases()
    with pytest.raises(Unchanged):
        running.adopt(2)
    world.running.add(1)
    with pytest.raises(UserError, match=r"agree about what is stable \(version 2\)"):
        running.adopt(1)
    assert running.ports.record.releases() == events
    running.advance(running.open(3), "canary", 5)
    with pytest.raises(UserError, match="agree about what is stable"):
        running.adopt(3)
    assert world.routes == Routes(stable=2, candidate=3, weight=5)


@pytest.mark.parametrize("place", ["preflight", "deploy", "promote", "done"])
def test_killed_in_an_adoption(tmp_path: Path, place: str) -> None:
    world = Seen(Routes(stable=1, candidate=2, weight=25), {1, 2})
    dying = controller(world, Fatal(tmp_path, lambda event: event.phase == place))
    with pytest.raises(Killed):
        dying.adopt(1)
    assert world.serving() == {1: 75, 2: 25}
    then = controller(world, FileRecord(tmp_path))
    assert len(then.adopt(1)) == (place != "done"), "one without an end is set aside"
    assert then.open(2).stable == 1 and world.routes == Routes(stable=1)


def test_a_candidate_without_ready_servers_gets_nobody(tmp_path: Path) -> None:
    class Deaf(Seen):
        """Its candidate's pods are away for some looks at 5 %."""

        looks = 0

        def counts(self, routes, since):  # noqa: ANN001, ANN202
            self.looks += routes.weight == 5
            self.silent = {2} if 3 < self.looks < 9 else set()
            seen.append((2 in self.silent, self.routes.weight))
            return super().counts(routes, since)

    seen: list[tuple[bool, int]] = []
    world = Deaf(Routes(stable=1), {1})
    released(tmp_path)
    running = controller(world, FileRecord(tmp_path), POLICY.model_copy(
        update={"canary": POLICY.canary.model_copy(update={"min_requests": 400})}))  # fmt: skip
    assert running.run(running.open(2)).decision == "promoted"
    away = [weight for silent, weight in seen if silent]
    assert away[1:] == [0] * (len(away) - 1), "from the first look on that sees it"
    back = seen[max(n for n, (silent, _) in enumerate(seen) if silent) + 2]
    assert back == (False, 5), "and its weight again"
    events = running.ports.record.releases()[-1]
    told = [e for e in events if e.reason == "no server of version 2 is ready: it gets no users "
            "until one is"]  # fmt: skip
    assert len(told) == 5 and {e.weight for e in told} == {5}


def test_stable_without_ready_servers_gets_nobody_back(tmp_path: Path) -> None:
    world = Seen(Routes(stable=1), {1})
    released(tmp_path)
    running = controller(world, FileRecord(tmp_path), HASTY)
    state = running.advance(running.open(2), "canary", 50)
    world.silent = {1}
    ended = running.roll_back("asked for")
    assert ended is not None and ended.decision == "rolled_back"
    assert "who gets version 2 keeps it until then" in ended.reason
    assert world.serving() == {1: 50, 2: 50} and world.running == {1, 2}, state
    world.silent = set()
    assert running.open(3).stable == 1
    assert (world.routes, world.running) == (Routes(stable=1), {1})


def test_the_first_version_stays_once_all_users_get_it(tmp_path: Path) -> None:
    world = Seen(Routes(stable=None), set())
    dying = controller(world, Fatal(tmp_path, lambda event: event.phase == "promote"))
    with pytest.raises(Killed):
        dying.run(dying.open(1))
    then = controller(world, FileRecord(tmp_path))
    assert then.go_back(1, "asked for") == "version 1: bootstrapped"
    assert world.serving() == {1: 100}


def test_the_first_version_is_let_go_where_it_does_not_answer(tmp_path: Path) -> None:
    world = Seen(Routes(stable=None), set())
    running = controller(world, FileRecord(tmp_path), HASTY)
    state = running.advance(running.open(1), "deploy")
    world.silent = {1}
    ended = running.advance(state)
    assert (ended.decision, world.serving(), world.running) == ("rolled_back", {}, set())


Act = Callable[[Controller], object]
ACTS: dict[str, Act] = {
    "open 2": lambda c: c.open(2),
    "open 3": lambda c: c.open(3),
    "deploy": lambda c: c.advance(c.begun(2), "deploy"),
    "canary": lambda c: c.advance(c.begun(2), "canary", 50),
    "run": lambda c: c.run(c.open(2)),
    "run 3": lambda c: c.run(c.open(3)),
    "go back 2": lambda c: c.go_back(2, "asked for"),
    "go back 3": lambda c: c.go_back(3, "asked for"),
    "adopt 1": lambda c: c.adopt(1),
    "adopt 2": lambda c: c.adopt(2),
    "lose all": lambda c: [path.unlink() for path in c.ports.record.folder.glob("*.jsonl")],  # type: ignore[attr-defined]
    "lose the newest": lambda c: max(files(c.ports.record.folder.parent)).unlink(),  # type: ignore[attr-defined]
    "break the newest": lambda c: cut(max(files(c.ports.record.folder.parent))),  # type: ignore[attr-defined]
}


def cut(path: Path) -> None:
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[1:]))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(ACTS)), st.sets(st.sampled_from([1, 2, 3]), max_size=2)),
        min_size=2,
        max_size=8,
    )
)
def test_no_act_leaves_users_with_nobody_if_somebody_answered(
    acts: list[tuple[str, set[int]]],
) -> None:
    """`Seen` holds each change of the route, and each stop, against it."""
    with tempfile.TemporaryDirectory() as folder:
        world = Seen(Routes(stable=1), {1})
        released(Path(folder))
        for act, silent in acts:
            world.silent = silent
            before = world.answered()
            try:
                ACTS[act](controller(world, FileRecord(Path(folder)), HASTY))
            except (UserError, Unchanged, ValueError):
                pass
            assert world.answered() >= before, act
