"""Where a release is, and what comes next."""

from dataclasses import dataclass, field

from modelyard.delivery.evidence.counts import Arm, Counts
from modelyard.delivery.evidence.differences import arms
from modelyard.delivery.gates.trial import Trial
from modelyard.delivery.policy import Policy
from modelyard.delivery.ports import Routes
from modelyard.documents.record import Decision, Phase

RECENT = 8
"""looks over which traffic must have come in, and its rate is taken"""
STALE = 5
"""intervals after which counts are too old to decide by"""


@dataclass(frozen=True)
class State:
    """Where a release is."""

    release: str
    candidate: int
    stable: int | None
    phase: Phase = "preflight"
    weight: int = 0
    since: float = 0.0
    """when this phase or fixed step began, s since the epoch"""
    sequence: int = 0
    """of the next event"""
    ready: float = 0.0
    """when the candidate was last seen ready, s since the epoch"""
    shadow_began: float = 0.0
    live: float | None = None
    """when one first looked after this phase or fixed step was made real, s since the epoch"""
    baseline: Counts | None = None
    """the first counts of `live` or later"""
    last: Counts | None = None
    """the newest that the tests have seen"""
    recent: tuple[Counts, ...] = ()
    rate: float = 0.0
    """requests of users a second, over the recent looks"""
    mixed: bool = False
    """live traffic has begun, but the next counts hold mirrored requests, too"""
    decision: Decision | None = None
    reason: str = ""
    policy: Policy = field(default=Policy(), compare=False)
    """by which the release began, and by which alone it is decided; where it can't be read and
    only the way back is left to go, the default"""
    judged: bool = True
    """whether the tests are done; not once it has ended, nor where it only goes back"""
    tests: Trial | None = field(default=None, compare=False)
    """follows from the counts, as all else does; None where nothing is compared"""


@dataclass(frozen=True)
class Provenance:
    """What a release was begun with, for its record; see `ReleaseEvent`."""

    digest: str | None = None
    policy_hash: str | None = None
    workflow: str | None = None


@dataclass(frozen=True)
class Action:
    """What comes next. The same phase and weight as before: go on watching."""

    phase: Phase
    weight: int
    reason: str
    decision: Decision | None = None

    def moves(self, state: State) -> bool:
        return (self.phase, self.weight) != (state.phase, state.weight)


def routes_of(state: State) -> Routes:
    """Who serves in this state. Level-triggered: right at any time, however often applied."""
    kept = state.phase in ("shadow", "canary", "promote", "rollback") or state.decision == "held"
    return Routes(
        stable=state.stable,
        candidate=state.candidate if kept else None,
        weight=state.weight if kept else 0,
        mirror=state.phase == "shadow",
    )


def is_step(state: State, weight: int) -> bool:
    """Whether a weight is another fixed step. A ramp is one step, whatever its weight."""
    ramps = state.phase == "canary" and state.policy.canary.ramp is not None
    return weight != state.weight and not ramps


def exposure(state: State, counts: Counts) -> tuple[Arm, Arm]:
    """Stable's and the candidate's counts in this phase or weight so far."""
    return arms(state.baseline or counts, counts)
