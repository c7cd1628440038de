"""The release as a pure state machine: `decide(policy, evidence, state) -> Action`.

    preflight → deploy → shadow → canary at each weight → promote → done: promoted
                  │         └──────────────┬───────────────┘
                  │                        ├→ done: held            (undecided in time)
                  └────────────────────────┴→ rollback → done: rolled_back

Without a stable version the way is preflight → deploy → promote → done: bootstrapped.

The state is a fold of the release record and nothing else, so a controller that died
goes on from where its record ends. Missing, old or restarted counts never advance a
release; they can only let its time run out.
"""

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from pydantic import ValidationError

from modelyard.delivery.gates import Verdict, judge_errors, judge_latency, judge_predictions
from modelyard.delivery.policy import Policy
from modelyard.delivery.ports import Arm, Counts, Evidence, Routes
from modelyard.documents import ReleaseEvent, UserError
from modelyard.documents.record import Decision, Phase

RECENT, LAST = 8, 2
"""looks in the two short windows"""
STALE = 5
"""intervals after which counts are too old to advance on"""
ENOUGH = 25
"""requests of stable in a window, below which stable of the whole release is the measure"""
_TESTS = 6
"""errors in three windows, latency in two, predictions in one"""


@dataclass(frozen=True)
class State:
    """Where a release is."""

    release: str
    candidate: int
    stable: int | None
    phase: Phase = "preflight"
    weight: int = 0
    since: float = 0.0
    """when this phase or weight began, s since the epoch"""
    sequence: int = 0
    """of the next event"""
    ready: float = 0.0
    """when the candidate was last seen ready, s since the epoch"""
    looks: int = 0
    """with counts so far; each spends its part of alpha"""
    shadow_began: float = 0.0
    first: Counts | None = None
    """at the begin of the shadow: stable's exposure is counted from here on at 100 %"""
    baseline: Counts | None = None
    """at the first look since this phase or weight was made real"""
    recent: tuple[Counts, ...] = ()
    decision: Decision | None = None
    reason: str = ""


@dataclass(frozen=True)
class Action:
    """What comes next. The same phase and weight as before: go on watching."""

    phase: Phase
    weight: int
    reason: str
    decision: Decision | None = None

    def moves(self, state: State) -> bool:
        return (self.phase, self.weight) != (state.phase, state.weight)


def decide(policy: Policy, evidence: Evidence, state: State) -> Action:
    """The one place where a release's way is decided."""
    match state.phase:
        case "preflight":
            return Action("deploy", 0, "the artifact is there")
        case "deploy":
            return _deploy(policy, evidence, state)
        case "shadow" | "canary":
            return _watch(policy, evidence, state)
        case "promote":
            return _promote(policy, evidence, state)
        case "rollback":
            return _rollback(policy, evidence, state)
        case "done":
            return Action("done", state.weight, state.reason, state.decision)


def routes(state: State) -> Routes:
    """Who serves in this state. Level-triggered: right at any time, however often applied."""
    kept = state.phase in ("shadow", "canary", "promote", "rollback") or state.decision == "held"
    return Routes(
        stable=state.stable,
        candidate=state.candidate if kept else None,
        weight=state.weight if kept else 0,
        mirror=state.phase == "shadow",
    )


def event(state: State, action: Action, evidence: Evidence) -> ReleaseEvent:
    """The record's next line: the action, and the evidence it was decided by."""
    taken_over = action.decision in ("promoted", "bootstrapped")
    return ReleaseEvent(
        time=evidence.time,
        release=state.release,
        sequence=state.sequence,
        candidate=state.candidate,
        stable=state.candidate if taken_over else state.stable,
        phase=action.phase,
        weight=action.weight,
        evidence=evidence.model_dump(mode="json", exclude_none=True),
        decision=action.decision,
        reason=action.reason,
    )


def begin(
    release: str, candidate: int, stable: int | None, time: float, policy: Policy
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
        reason=f"version {candidate}" + (f" against stable {stable}" if stable else ", the first"),
    )


def replay(events: Iterable[ReleaseEvent]) -> State:
    """The state at the end of a record.

    Raises:
        UserError: events that this machine can't have written (the record was edited).
    """
    first, *rest = events
    state = State(first.release, first.candidate, first.stable, since=first.time, sequence=1)
    return functools.reduce(apply, rest, state)


def apply(state: State, event: ReleaseEvent) -> State:
    """The state after one more event."""
    _check(state, event)
    seen = _evidence(event)
    counts = seen.counts if seen else None
    ready = seen is not None and seen.candidate.status == "ready"
    moved = (event.phase, event.weight) != (state.phase, state.weight)
    state = replace(
        state,
        phase=event.phase,
        weight=event.weight,
        stable=event.stable,
        # A clock that was set back must not stretch the phase.
        since=event.time if moved else min(state.since, event.time),
        ready=event.time if ready else min(state.ready, event.time),
        sequence=event.sequence + 1,
        decision=event.decision,
        reason=event.reason,
        baseline=None if moved else state.baseline,
        recent=() if moved else state.recent,
    )
    if moved and event.phase == "shadow":
        state = replace(state, shadow_began=event.time)
    if counts is None or event.phase not in ("shadow", "canary"):
        return state
    state = replace(state, looks=state.looks + 1)
    if moved:
        # These belong to what was before. What comes in until the new routes are live, also after
        # a crash, does so, too.
        return state
    if not _continues(state.baseline, counts) or not _continues(state.first, counts):
        state = replace(state, first=None, baseline=None, recent=())
    return replace(
        state,
        first=state.first or counts,
        baseline=state.baseline or counts,
        recent=(*state.recent, counts)[-RECENT:],
    )


def _check(state: State, event: ReleaseEvent) -> None:
    where = f"release {event.release}, event {event.sequence}"
    if event.sequence != state.sequence or event.release != state.release:
        raise UserError(f"{where}: does not follow event {state.sequence - 1} of {state.release}")
    if event.candidate != state.candidate:
        raise UserError(f"{where}: the candidate changed from {state.candidate}")
    if state.phase == "done":
        raise UserError(f"{where}: the release had ended as {state.decision}")
    if (event.phase == "done") != (event.decision is not None):
        raise UserError(f"{where}: a decision belongs to the last event, and only there")
    allowed = _NEXT[state.phase] | {state.phase, "rollback"}
    if event.phase not in allowed:
        raise UserError(f"{where}: {event.phase} can't follow {state.phase}")
    if event.phase == "canary" and event.weight < state.weight:
        raise UserError(f"{where}: the weight fell from {state.weight} to {event.weight}")
    if event.phase == "canary" and event.weight > state.weight and not _has_counts(event):
        raise UserError(f"{where}: the weight rose to {event.weight} without evidence")
    taken_over = event.decision in ("promoted", "bootstrapped")
    if event.stable != (event.candidate if taken_over else state.stable):
        raise UserError(f"{where}: stable changed from {state.stable} to {event.stable}")


def _has_counts(event: ReleaseEvent) -> bool:
    seen = _evidence(event)
    return seen is not None and seen.counts is not None


def _evidence(event: ReleaseEvent) -> Evidence | None:
    try:
        return Evidence.model_validate(event.evidence) if event.evidence else None
    except ValidationError as error:
        first = error.errors()[0]
        what = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise UserError(
            f"release {event.release}, event {event.sequence}: not evidence ({what})"
        ) from None


_NEXT: dict[Phase, set[Phase]] = {
    "preflight": {"deploy"},
    "deploy": {"shadow", "promote"},
    "shadow": {"canary", "done"},
    "canary": {"promote", "done"},
    "promote": {"done"},
    "rollback": {"done"},
}


def _deploy(policy: Policy, evidence: Evidence, state: State) -> Action:
    candidate, waited = evidence.candidate, _elapsed(evidence, state)
    if candidate.status == "failed":
        return roll_back(f"version {state.candidate} did not get ready: {candidate.detail}")
    if candidate.status == "ready" and state.stable is None:
        return Action("promote", 100, "ready; there is no stable version to compare with")
    if candidate.status == "ready" and _stable_ready(evidence):
        return Action("shadow", 0, "ready")
    if waited > policy.deploy.max_duration:
        who, health = (
            (f"version {state.candidate}", candidate)
            if candidate.status != "ready" or evidence.stable is None
            else (f"stable version {state.stable}", evidence.stable)
        )
        return roll_back(f"{who} was not ready after {waited:.0f} s: {health.detail}")
    return Action("deploy", 0, f"waiting for the servers, {waited:.0f} s")


def _watch(policy: Policy, evidence: Evidence, state: State) -> Action:
    if evidence.candidate.status in ("absent", "failed"):
        return roll_back(f"the candidate's servers ended: {evidence.candidate.detail}")
    silent = evidence.time - state.ready
    if evidence.candidate.status != "ready" and silent > policy.deploy.max_duration:
        why = f"the candidate has not been ready for {silent:.0f} s"
        return roll_back(f"{why}: {evidence.candidate.detail}")
    verdicts = list(judge(policy, evidence, state))
    failed = next((v for _, v in verdicts if v.outcome == "fail"), None)
    if failed:
        return roll_back(f"{failed.gate}: {failed.text}")
    phase = policy.shadow if state.phase == "shadow" else policy.canary
    missing = _missing(policy, evidence, state, verdicts)
    if missing is None:
        return _advance(policy, state)
    elapsed = _elapsed(evidence, state)
    if elapsed > phase.max_duration:
        return _inconclusive(policy, state, f"undecided after {elapsed:.0f} s: {missing}")
    return Action(state.phase, state.weight, missing)


def judge(policy: Policy, evidence: Evidence, state: State) -> Iterator[tuple[str, Verdict]]:
    """The verdicts of all gates that apply, each with its window.

    `step` is everything since this weight began; `recent` and `last` are the newest looks,
    in which a fault that has just come is not diluted by what went well before. alpha is split
    evenly over gates and windows, and over the looks as 1 / (k (k + 1)), which sums to 1
    however many there will be (Bonferroni).
    """
    counts, gates = fresh(policy, evidence, state), policy.gates
    if counts is None or state.baseline is None or state.first is None:
        return
    look = state.looks + 1
    alpha = policy.alpha / (look * (look + 1)) / _TESTS
    earlier = _arms(state.first, counts)[0]
    windows = {
        "step": state.baseline,
        "recent": state.recent[0],
        "last": state.recent[-LAST:][0],
    }
    for window, start in windows.items():
        stable, candidate = _arms(start, counts)
        # At 100 % stable has no traffic of its own but stragglers. A few requests tell nothing:
        # one failure among them would excuse any candidate, and none would hide its failures.
        if state.weight == 100 or stable.requests < ENOUGH:
            stable = earlier
        yield window, judge_errors(gates.errors, stable, earlier, candidate, alpha)
        if gates.latency and window != "last":
            yield window, judge_latency(gates.latency, stable, candidate, alpha)
    if gates.predictions and state.phase == "shadow" and counts.pairs:
        yield "step", judge_predictions(gates.predictions, counts.pairs, alpha)


def fresh(policy: Policy, evidence: Evidence, state: State) -> Counts | None:
    """The counts, if they are recent and go on from those the state holds."""
    counts = evidence.counts
    if counts is None or abs(evidence.time - counts.time) > STALE * policy.interval:
        return None
    return counts if _continues(state.baseline, counts) else None


def exposure(state: State, counts: Counts) -> tuple[Arm, Arm]:
    """Stable's and the candidate's counts in this phase or weight so far."""
    return _arms(state.baseline or counts, counts)


def _missing(
    policy: Policy, evidence: Evidence, state: State, verdicts: list[tuple[str, Verdict]]
) -> str | None:
    """What is still wanting before the next step; None if nothing is."""
    counts = fresh(policy, evidence, state)
    if counts is None or not verdicts:
        return "no evidence: " + (evidence.note or "the counts are old or began anew")
    if not _stable_ready(evidence) or evidence.candidate.status != "ready":
        return "a server is not ready"
    wanted = (policy.shadow if state.phase == "shadow" else policy.canary).min_requests
    seen = exposure(state, counts)[1].requests
    if seen < wanted:
        return f"{seen} of {wanted} requests"
    if not _arms(state.recent[0], counts)[1].requests:
        return f"no requests in the last {len(state.recent)} looks"
    served = _arms(state.first or counts, counts)[0].requests
    if served < wanted:
        return f"{served} of {wanted} requests at stable"
    if policy.gates.predictions and state.phase == "shadow":
        rows = counts.pairs.rows if counts.pairs else 0
        if rows < wanted:
            return f"{rows} of {wanted} paired predictions"
    open_ = next((v for w, v in verdicts if w == "step" and v.outcome != "pass"), None)
    if open_:
        return f"{open_.gate}: {open_.text}"
    if state.phase == "canary" and _elapsed(evidence, state) < policy.canary.min_duration:
        return f"all gates pass; a step lasts {policy.canary.min_duration:g} s"
    return None


def _advance(policy: Policy, state: State) -> Action:
    now = state.weight if state.phase == "canary" else 0
    later = next((w for w in policy.canary.steps if w > now), None)
    if later is None:
        return Action("promote", 100, "all steps passed")
    return Action("canary", later, "all gates pass")


def _inconclusive(policy: Policy, state: State, why: str) -> Action:
    if policy.canary.on_inconclusive == "roll_back":
        return roll_back(why)
    weight = min(policy.canary.hold_weight, state.weight)
    return Action("done", weight, why, "held")


def _promote(policy: Policy, evidence: Evidence, state: State) -> Action:
    if evidence.candidate.status == "ready":
        if state.stable is None:
            return Action("done", 100, "first version, healthy at 100 %", "bootstrapped")
        return Action("done", 100, "all gates passed at every weight", "promoted")
    if evidence.candidate.status in ("absent", "failed"):
        return roll_back(f"the candidate's servers ended at 100 %: {evidence.candidate.detail}")
    if _elapsed(evidence, state) > policy.deploy.max_duration:
        return roll_back("the candidate stopped answering at 100 %")
    return Action("promote", 100, "waiting for the candidate to answer")


def _rollback(policy: Policy, evidence: Evidence, state: State) -> Action:
    if state.stable is None or _stable_ready(evidence):
        return Action("done", 0, state.reason, "rolled_back")
    if _elapsed(evidence, state) > policy.deploy.max_duration:
        return Action("done", 0, f"{state.reason}; stable does not answer either", "rolled_back")
    return Action("rollback", 0, state.reason)


def roll_back(reason: str) -> Action:
    """Back to stable, whatever the state was."""
    return Action("rollback", 0, reason)


def _stable_ready(evidence: Evidence) -> bool:
    return evidence.stable is not None and evidence.stable.status == "ready"


def _elapsed(evidence: Evidence, state: State) -> float:
    return max(0.0, evidence.time - state.since)


def _continues(before: Counts | None, now: Counts) -> bool:
    """False if the totals began anew in between."""
    if before is None:
        return True
    pairs = [(before.stable, now.stable), (before.candidate, now.candidate)]
    return before.epoch == now.epoch and all(
        (b or Arm()).requests <= (n or Arm()).requests
        and (b or Arm()).failures <= (n or Arm()).failures
        for b, n in pairs
    )


def _arms(before: Counts, now: Counts) -> tuple[Arm, Arm]:
    return (
        _minus(now.stable or Arm(), before.stable or Arm()),
        _minus(now.candidate or Arm(), before.candidate or Arm()),
    )


def _minus(now: Arm, before: Arm) -> Arm:
    return Arm(
        requests=now.requests - before.requests,
        failures=now.failures - before.failures,
        latency={edge: count - before.latency.get(edge, 0) for edge, count in now.latency.items()},
    )
