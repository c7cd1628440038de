"""What a look tells: the tests of all gates after it, and their verdicts."""

from dataclasses import dataclass

from modelyard.delivery.evidence.counts import Counts
from modelyard.delivery.evidence.differences import answered, continues, difference
from modelyard.delivery.evidence.looks import Evidence
from modelyard.delivery.gates.trial import Trial
from modelyard.delivery.gates.verdicts import Verdict
from modelyard.delivery.release.state import STALE, State


@dataclass(frozen=True)
class Assessment:
    """One look, as a state's tests see it. They are dear: it is made once a look."""

    evidence: Evidence
    tests: Trial | None
    """after the look; None where nothing is compared"""
    verdicts: tuple[Verdict, ...]
    """of all gates that apply; none where the look tells nothing new"""


def assess(state: State, evidence: Evidence) -> Assessment:
    """Do the tests of `state` with what was seen."""
    counts, shadow = usable(evidence, state), state.phase == "shadow"
    if counts is None or state.tests is None or state.last is None:
        return Assessment(evidence, state.tests, ())
    if not continues(state.last, counts):
        return Assessment(evidence, state.tests, ())
    tests = state.tests.updated(difference(state.last, counts), live=not shadow)
    if state.mixed:
        tests = tests.anew()
    return Assessment(evidence, tests, tests.verdicts(shadow))


def usable(evidence: Evidence, state: State) -> Counts | None:
    """The counts, if they are wanted and recent."""
    counts = evidence.counts
    if counts is None or state.phase not in ("shadow", "canary"):
        return None
    if abs(evidence.time - counts.time) > STALE * state.policy.interval:
        return None
    return counts


def user_rate(state: State, counts: Counts) -> float:
    """Requests of users a second lately; a mirrored one has no user."""
    first = state.recent[0] if state.recent else counts
    if counts.time <= first.time:
        return state.rate
    stable, candidate = answered(first, counts)
    users = stable - (counts.replayed.requests - first.replayed.requests)
    users += candidate if state.phase == "canary" else 0
    for before, now in ((first.stable, counts.stable), (first.candidate, counts.candidate)):
        users += now.pending - before.pending if now and before and state.phase == "canary" else 0
    return max(0, users) / (counts.time - first.time)
