"""Who serves, whatever the record says; and whom a release may move."""

import pytest

from modelyard.delivery.ports import Routes
from modelyard.delivery.release.shares import Unexplained, harmless, stable_version, told
from modelyard.delivery.release.state import State

UNDER_WAY = State("r3", candidate=3, stable=2, phase="canary", weight=25)
PROMOTED = State("r2", candidate=2, stable=2, phase="done", decision="promoted")
HELD = State("r3", candidate=3, stable=2, phase="done", decision="held", weight=5)
BACK = State("r3", candidate=3, stable=2, phase="done", decision="rolled_back")
FIRST_BACK = State("r1", candidate=1, stable=None, phase="done", decision="rolled_back")


@pytest.mark.parametrize(
    ("last", "live", "stable"),
    [
        (None, {}, None),
        (None, {2: 100}, 2),  # the record is gone between two releases
        (PROMOTED, {2: 100}, 2),
        (PROMOTED, {}, 2),  # the route was removed, or all was stopped
        (HELD, {2: 95, 3: 5}, 2),
        (BACK, {2: 75, 3: 25}, 2),  # written down, but not done yet
        (UNDER_WAY, {2: 75, 3: 25}, 2),
        (UNDER_WAY, {3: 100}, 2),  # at its last step
        (FIRST_BACK, {}, None),
    ],
)
def test_what_is_stable(last: State | None, live: dict[int, int], stable: int | None) -> None:
    assert stable_version(last, live) == stable


@pytest.mark.parametrize(
    ("last", "live", "said"),
    [
        (None, {2: 75, 3: 25}, "users get version 2 (75 %) and version 3 (25 %), but there is no"),
        (PROMOTED, {3: 100}, "all users get version 3, but by the newest release on record (r2) "
         "version 2 is stable"),
        (PROMOTED, {2: 75, 3: 25}, "version 2 is stable"),
        (UNDER_WAY, {2: 50, 4: 50}, "version 2 is stable"),
        (FIRST_BACK, {1: 100}, "none is stable"),
    ],
)  # fmt: skip
def test_what_nothing_tells(last: State | None, live: dict[int, int], said: str) -> None:
    with pytest.raises(Unexplained) as refused:
        stable_version(last, live)
    version = next(iter(live)) if len(live) == 1 else "N"
    assert said in str(refused.value)
    assert f"`modelyard release adopt --env ENV --version {version}`" in str(refused.value)


@pytest.mark.parametrize(
    ("wanted", "live", "silent", "routes"),
    [
        # all is well
        (Routes(stable=1, candidate=2, weight=25), {1: 95, 2: 5}, {}, 25),
        (Routes(stable=1, candidate=2, weight=0), {1: 95, 2: 5}, {}, 0),
        (Routes(stable=None, candidate=2, weight=100), {}, {}, 100),
        (Routes(stable=None), {}, {}, 0),
        # no server of the candidate is ready
        (Routes(stable=1, candidate=2, weight=25), {1: 75, 2: 25}, {2}, 0),
        (Routes(stable=1, candidate=2, weight=100), {2: 100}, {2}, 0),
        (Routes(stable=1, candidate=2, weight=25), {1: 75, 2: 25}, {1, 2}, 0),
        # none of stable is: nobody comes to the candidate for that, and nobody goes
        (Routes(stable=1, candidate=2, weight=25), {1: 75, 2: 25}, {1}, 25),
        (Routes(stable=1, candidate=2, weight=0), {1: 75, 2: 25}, {1}, 25),
        (Routes(stable=1, candidate=2, weight=0), {2: 100}, {1}, 100),
        (Routes(stable=1, candidate=2, weight=5), {1: 100}, {1}, 5),
        # a third one answers
        (Routes(stable=1, candidate=3), {1: 95, 2: 5}, {1}, None),
        (Routes(stable=1), {2: 100}, {1}, None),
        (Routes(stable=1), {2: 100}, {1, 2}, 0),
        # there is no stable version
        (Routes(stable=None), {2: 100}, {}, None),
        (Routes(stable=None), {2: 100}, {2}, 0),
        (Routes(stable=None, candidate=2, weight=0), {2: 100}, {}, 100),
        (Routes(stable=None, candidate=2, weight=100), {1: 100}, {2}, None),
    ],
)
def test_nobody_who_is_answered_is_sent_to_silent_servers(
    wanted: Routes, live: dict[int, int], silent: set[int], routes: int | None
) -> None:
    found = harmless(wanted, live, set(silent))
    expected = None if routes is None else wanted.model_copy(update={"weight": routes})
    assert found == expected


def test_in_words() -> None:
    assert told({}) == "nobody is served"
    assert told({2: 100}) == "all users get version 2"
    assert told({3: 1, 1: 2}) == "users get version 1 (66.7 %) and version 3 (33.3 %)"
    whole = told({3: 1, 1: 1, 2: 2})
    assert whole == "users get version 1 (25 %), version 2 (50 %) and version 3 (25 %)"
