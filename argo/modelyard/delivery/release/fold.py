"""The release record: its lines as they are written, and the state that they come to.

The state is a fold of the record and nothing else, so a controller that died goes on from where
its record ends. The tests' state is a part of it: the fold does them again from the counts, and
an e-value in the record that does not follow from the counts was edited.
"""

import functools
from collections.abc import Iterable
from dataclasses import replace

from pydantic import ValidationError

from modelyard.delivery.evidence.differences import continues
from modelyard.delivery.evidence.looks import Evidence
from modelyard.delivery.gates.trial import Trial
from modelyard.delivery.policy import Policy
from modelyard.delivery.release.assess import Assessment, assess, usable, user_rate
from modelyard.delivery.release.audit import check_event, check_verdicts
from modelyard.delivery.release.state import RECENT, Action, Provenance, State, is_step
from modelyard.documents import ReleaseEvent
from modelyard.documents.record import Changed


def next_event(state: State, action: Action, seen: Assessment) -> ReleaseEvent:
    """The record's next line: the action, and the evidence it was decided by."""
    taken_over = action.decision in ("promoted", "bootstrapped")
    return ReleaseEvent(
        time=seen.evidence.time,
        release=state.release,
        sequence=state.sequence,
        candidate=state.candidate,
        stable=state.candidate if taken_over else state.stable,
        phase=action.phase,
        weight=action.weight,
        evidence=seen.evidence.model_dump(mode="json", exclude_none=True),
        verdicts=tuple({**vars(verdict)} for verdict in seen.verdicts),
        decision=action.decision,
        reason=action.reason,
    )


def first_event(
    release: str,
    candidate: int,
    stable: int | None,
    time: float,
    policy: Policy,
    provenance: Provenance | None = None,
    reason: str = "",
) -> ReleaseEvent:
    """The first line of a release's record."""
    return ReleaseEvent(
        time=time,
        release=release,
        sequence=0,
        candidate=candidate,
        stable=stable,
        phase="preflight",
        weight=0,
        policy=policy.model_dump(mode="json"),
        **vars(provenance or Provenance()),
        reason=reason
        or f"version {candidate}" + (f" against stable {stable}" if stable else ", the first"),
    )


def replay(events: Iterable[ReleaseEvent], judged: bool = True) -> State:
    """The state at the end of a record.

    The tests of a release that has ended are not done again: they decide nothing any more, and
    a later modelyard may do others. Nor are they if not `judged`, for the way back alone.

    Raises:
        Changed: events that this machine can't have written (the record was edited).
    """
    first, *rest = events
    ended = bool(rest) and rest[-1].phase == "done"
    state = State(
        first.release,
        first.candidate,
        first.stable,
        since=first.time,
        sequence=1,
        reason=first.reason,
        policy=_policy(first, needed=judged and not ended),
        judged=judged and not ended,
    )
    return functools.reduce(apply, rest, state)


def apply(state: State, event: ReleaseEvent, assessed: Assessment | None = None) -> State:
    """The state after one more event.

    Args:
        assessed: by this very state, if it was just done: tests are dear. Of other evidence than
            the event's it is not used.

    Raises:
        Changed: this machine can't have written it.
    """
    check_event(state, event)
    seen, tests, verdicts = _evidence(event), state.tests, ()
    if seen is not None:
        found = assessed if assessed and assessed.evidence == seen else assess(state, seen)
        tests, verdicts = found.tests, found.verdicts
    check_verdicts(state, event, verdicts)
    moved = event.phase != state.phase or is_step(state, event.weight)
    goes_live = moved and event.phase == "canary" and state.phase == "shadow"
    ready = seen is not None and seen.candidate.status == "ready"
    state = replace(
        _counted(state, seen, moved),
        phase=event.phase,
        weight=event.weight,
        stable=event.stable,
        # A clock that was set back must not stretch the phase.
        since=event.time if moved else min(state.since, event.time),
        ready=event.time if ready else min(state.ready, event.time),
        live=None if moved else min(state.live or event.time, event.time),
        sequence=event.sequence + 1,
        decision=event.decision,
        reason=event.reason,
        tests=tests,
    )
    if event.phase == "done":
        return replace(
            state,
            judged=False,
            tests=None,
            baseline=None,
            last=None,
            recent=(),
            rate=0.0,
            mixed=False,
        )
    if moved and event.phase == "shadow":
        trial = Trial.begin(state.policy) if state.judged else None
        return replace(state, shadow_began=event.time, tests=trial)
    if goes_live:
        state = replace(state, mixed=True, tests=tests and tests.go_live())
    if moved and event.phase == "canary" and event.weight == 100:
        state = replace(state, tests=state.tests and state.tests.at_full())
    return state


def _counted(state: State, seen: Evidence | None, moved: bool) -> State:
    """The counts that later ones are compared with."""
    counts = usable(seen, state) if seen else None
    if seen is None or counts is None:
        return replace(state, baseline=None, recent=()) if moved else state
    if not continues(state.last, counts):
        state = replace(state, baseline=None, recent=())
    state = replace(state, last=counts, rate=user_rate(state, counts))
    live = min(state.live or seen.time, seen.time)
    if moved or (state.baseline is None and counts.time < live):
        # These belong to what was before. What comes in until the new routes are live, also after
        # a crash, does so, too; and so does what Prometheus scraped before they were.
        return replace(state, baseline=None, recent=())
    return replace(
        state,
        mixed=False,
        baseline=state.baseline or counts,
        recent=(*state.recent, counts)[-RECENT:],
    )


def _policy(first: ReleaseEvent, needed: bool) -> Policy:
    try:
        return Policy.model_validate(first.policy)
    except ValidationError as error:
        if not needed:
            return Policy()
        what = error.errors()[0]["msg"]
        raise Changed(f"release {first.release}, event 0: not a policy ({what})") from None


def _evidence(event: ReleaseEvent) -> Evidence | None:
    try:
        return Evidence.model_validate(event.evidence) if event.evidence else None
    except ValidationError as error:
        first = error.errors()[0]
        what = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise Changed(
            f"release {event.release}, event {event.sequence}: not evidence ({what})"
        ) from None
