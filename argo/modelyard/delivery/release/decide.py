"""The release as a pure state machine: `decide(policy, evidence, state) -> Action`.

    preflight → deploy → shadow → canary at each weight → promote → done: promoted
                  │         └──────────────┬───────────────┘
                  │                        ├→ done: held            (undecided in time)
                  └────────────────────────┴→ rollback → done: rolled_back

Without a stable version the way is preflight → deploy → promote → done: bootstrapped.

The state is a fold of the release record and nothing else, so a controller that died
goes on from where its record ends. The tests' state is a part of it: the fold does them
again from the counts, and an e-value in the record that does not follow from the counts
was edited. Missing, old or restarted counts never advance a release; they can only let its
time run out. Nothing here looks at a clock or a file.
"""

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ValidationError

from modelyard.delivery.evidence.differences import answered, arms, continues, difference
from modelyard.delivery.gates.harm_budget import Outlook
from modelyard.delivery.gates.trial import Trial, Verdict, beyond
from modelyard.delivery.policy import Policy
from modelyard.delivery.ports import Arm, Counts, Evidence, Routes
from modelyard.documents import ReleaseEvent
from modelyard.documents.record import APPEND_ONLY, Changed, Decision, Phase

RECENT = 8
"""looks over which traffic must have come in, and its rate is taken"""
STALE = 5
"""intervals after which counts are too old to decide by"""
_ROUNDING = 2e-5
"""by which e-values of six digits may differ, relatively, between machines"""


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
    policy: Policy | None = None
    """by which the release began; None once it has ended, or where it only goes back"""
    tests: Trial | None = field(default=None, compare=False)
    """follows from the counts, as all else does; None where nothing is compared"""
    memo: dict[str, Any] = field(default_factory=dict, init=False, compare=False, repr=False)
    """the newest look and what this state's tests say of it: `decide`, `event` and `apply` all
    ask; `replace` does not hand it on"""


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


def check_policy(policy: Policy, state: State) -> None:
    """A release is decided by the limits that were set before it.

    Raises:
        Changed: it began with others.
    """
    if policy != state.policy and state.phase != "rollback":
        raise Changed(
            f"the policy is not the one that release {state.release} began with: put "
            "argo/release.yaml back as it was (in a cluster: the ConfigMap modelyard-release), or "
            "end the release with "
            f"`modelyard release step rollback --env ENV --candidate {state.candidate}`"
        )


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
        verdicts=tuple({**vars(verdict)} for verdict in judge(evidence, state)),
        decision=action.decision,
        reason=action.reason,
    )


def begin(
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
        policy=_policy(first) if judged and not ended else None,
    )
    return functools.reduce(apply, rest, state)


def apply(state: State, event: ReleaseEvent) -> State:
    """The state after one more event.

    Raises:
        Changed: this machine can't have written it.
    """
    _check(state, event)
    seen = _evidence(event)
    tests, verdicts = _look(seen, state) if seen else (state.tests, ())
    _check_verdicts(state, event, verdicts)
    moved = event.phase != state.phase or _steps(state, event.weight)
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
            policy=None,
            tests=None,
            baseline=None,
            last=None,
            recent=(),
            rate=0.0,
            mixed=False,
        )
    if moved and event.phase == "shadow":
        trial = Trial.begin(state.policy) if state.policy else None
        return replace(state, shadow_began=event.time, tests=trial)
    if goes_live:
        state = replace(state, mixed=True, tests=tests and tests.go_live())
    if moved and event.phase == "canary" and event.weight == 100:
        state = replace(state, tests=state.tests and state.tests.at_full())
    return state


def _steps(state: State, weight: int) -> bool:
    """Whether a weight is another fixed step. A ramp is one step, whatever its weight."""
    ramps = state.policy is not None and state.policy.canary.ramp is not None
    return weight != state.weight and not (ramps and state.phase == "canary")


def _counted(state: State, seen: Evidence | None, moved: bool) -> State:
    """The counts that later ones are compared with."""
    counts = _usable(seen, state) if seen else None
    if seen is None or counts is None:
        return replace(state, baseline=None, recent=()) if moved else state
    if not continues(state.last, counts):
        state = replace(state, baseline=None, recent=())
    state = replace(state, last=counts, rate=_rate(state, counts))
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


def _usable(evidence: Evidence, state: State) -> Counts | None:
    """The counts, if they are wanted and recent."""
    counts = evidence.counts
    if counts is None or state.phase not in ("shadow", "canary"):
        return None
    if state.policy and abs(evidence.time - counts.time) > STALE * state.policy.interval:
        return None
    return counts


def _rate(state: State, counts: Counts) -> float:
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


def judge(evidence: Evidence, state: State) -> tuple[Verdict, ...]:
    """The verdicts of all gates that apply; none where the look tells nothing new."""
    return _look(evidence, state)[1]


def _look(evidence: Evidence, state: State) -> tuple[Trial | None, tuple[Verdict, ...]]:
    """The tests after a look, and what they say."""
    if state.memo.get("evidence") != evidence:
        state.memo.update(evidence=evidence, found=_test(evidence, state))
    return state.memo["found"]


def _test(evidence: Evidence, state: State) -> tuple[Trial | None, tuple[Verdict, ...]]:
    counts, shadow = _usable(evidence, state), state.phase == "shadow"
    if counts is None or state.tests is None or state.last is None:
        return state.tests, ()
    if not continues(state.last, counts):
        return state.tests, ()
    tests = state.tests.after(difference(state.last, counts), live=not shadow)
    if state.mixed:
        tests = tests.anew()
    return tests, tests.verdicts(shadow)


def _check(state: State, event: ReleaseEvent) -> None:
    where = f"release {event.release}, event {event.sequence}"
    if event.sequence != state.sequence or event.release != state.release:
        raise Changed(f"{where}: does not follow event {state.sequence - 1} of {state.release}")
    if event.candidate != state.candidate:
        raise Changed(f"{where}: the candidate changed from {state.candidate}")
    if state.phase == "done":
        raise Changed(f"{where}: the release had ended as {state.decision}")
    if (event.phase == "done") != (event.decision is not None):
        raise Changed(f"{where}: a decision belongs to the last event, and only there")
    allowed = _NEXT[state.phase] | {state.phase, "rollback"}
    if event.phase not in allowed:
        raise Changed(f"{where}: {event.phase} can't follow {state.phase}")
    if event.decision and event.decision not in _ENDS.get(state.phase, ()):
        raise Changed(f"{where}: {event.decision} can't follow {state.phase}")
    due = _WEIGHTS.get(event.decision or event.phase, event.weight)
    if event.weight != due or (event.decision == "held" and event.weight > state.weight):
        raise Changed(f"{where}: {event.decision or event.phase} has no weight {event.weight}")
    falls = event.phase == "canary" and event.weight < state.weight
    if falls and state.policy and not state.policy.canary.ramp:
        raise Changed(f"{where}: the weight fell from {state.weight} to {event.weight}")
    taken_over = event.decision in ("promoted", "bootstrapped")
    if event.stable != (event.candidate if taken_over else state.stable):
        raise Changed(f"{where}: stable changed from {state.stable} to {event.stable}")


def _check_verdicts(state: State, event: ReleaseEvent, verdicts: tuple[Verdict, ...]) -> None:
    """The e-values follow from the counts, and the weight from the e-values."""
    if state.policy is None:
        return
    where = f"release {event.release}, event {event.sequence}"
    found = [{"gate": v.gate, "e": v.e, "proof": v.proof} for v in verdicts]
    same = len(event.verdicts) == len(found) and all(
        _agrees(written.get(name), value)
        for written, verdict in zip(event.verdicts, found, strict=True)
        for name, value in verdict.items()
    )
    if not same:
        raise Changed(f"{where}: its e-values do not follow from its counts; {APPEND_ONLY}")
    if event.weight <= state.weight or state.stable is None or event.phase == "rollback":
        return
    if not verdicts or any(v.outcome == "fail" for v in verdicts):
        raise Changed(f"{where}: the weight rose to {event.weight} without evidence")
    if event.weight == 100 and any(v.outcome != "pass" for v in verdicts if not v.of_slice):
        raise Changed(f"{where}: the weight rose to 100 without proof")


def _agrees(written: Any, found: str | float | None) -> bool:
    if isinstance(found, float) and isinstance(written, float | int):
        return math.isclose(written, found, rel_tol=_ROUNDING)
    return written == found


def _policy(first: ReleaseEvent) -> Policy:
    try:
        return Policy.model_validate(first.policy)
    except ValidationError as error:
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


_NEXT: dict[Phase, set[Phase]] = {
    "preflight": {"deploy"},
    "deploy": {"shadow", "promote"},
    "shadow": {"canary", "done"},
    "canary": {"promote", "done"},
    "promote": {"done"},
    "rollback": {"done"},
}
_ENDS: dict[Phase, set[Decision]] = {
    "shadow": {"held"},
    "canary": {"held"},
    "promote": {"promoted", "bootstrapped"},
    "rollback": {"rolled_back"},
}
_WEIGHTS = {"preflight": 0, "deploy": 0, "shadow": 0, "rollback": 0, "rolled_back": 0,
            "promote": 100, "promoted": 100, "bootstrapped": 100}  # fmt: skip
"""by phase, or by decision where there is one"""


def _deploy(policy: Policy, evidence: Evidence, state: State) -> Action:
    candidate, waited = evidence.candidate, _elapsed(evidence, state)
    if candidate.status == "failed":
        return roll_back(f"version {state.candidate} did not get ready: {candidate.detail}")
    ready = candidate.status == "ready" and (state.stable is None or _stable_ready(evidence))
    if ready and not evidence.unreached:
        if state.stable is None:
            return Action("promote", 100, "ready; there is no stable version to compare with")
        return Action("shadow", 0, "ready")
    if ready and waited > policy.deploy.max_duration:
        first = "" if state.stable else "; it is the first version: nobody is served, as before"
        return roll_back(
            f"version {state.candidate} is ready, but out of reach after {waited:.0f} s: "
            f"{evidence.unreached}{first}"
        )
    if waited > policy.deploy.max_duration:
        who, health = (
            (f"version {state.candidate}", candidate)
            if candidate.status != "ready" or evidence.stable is None
            else (f"stable version {state.stable}", evidence.stable)
        )
        return roll_back(f"{who} was not ready after {waited:.0f} s: {health.detail}")
    if ready:
        return Action("deploy", 0, f"ready, but out of reach, {waited:.0f} s: {evidence.unreached}")
    return Action("deploy", 0, f"waiting for the servers, {waited:.0f} s")


def _watch(policy: Policy, evidence: Evidence, state: State) -> Action:
    check_policy(policy, state)
    if evidence.candidate.status in ("absent", "failed"):
        return roll_back(f"the candidate's servers ended: {evidence.candidate.detail}")
    silent = evidence.time - state.ready
    if evidence.candidate.status != "ready" and silent > policy.deploy.max_duration:
        why = f"the candidate has not been ready for {silent:.0f} s"
        return roll_back(f"{why}: {evidence.candidate.detail}")
    verdicts = judge(evidence, state)
    failed = next((v for v in verdicts if v.outcome == "fail"), None)
    if failed:
        return roll_back(f"{failed.gate}: {failed.text}")
    unclear = _unclear(evidence, state, verdicts)
    if policy.canary.ramp and state.phase == "canary":
        action = _ramp(policy, evidence, state, verdicts, unclear)
    else:
        action = _step(policy, evidence, state, verdicts, unclear)
    phase = policy.shadow if state.phase == "shadow" else policy.canary
    elapsed = _elapsed(evidence, state)
    stays = action.phase == state.phase and not _steps(state, action.weight)
    if stays and elapsed > phase.max_duration:
        why = f"undecided after {elapsed:.0f} s: {action.reason}"
        unproven = _unproven(verdicts) if state.phase == "canary" else None
        return _inconclusive(
            policy, state, f"{why}; {unproven}" if unproven and unproven not in why else why
        )
    return action


def exposure(state: State, counts: Counts) -> tuple[Arm, Arm]:
    """Stable's and the candidate's counts in this phase or weight so far."""
    return arms(state.baseline or counts, counts)


def _unclear(evidence: Evidence, state: State, verdicts: tuple[Verdict, ...]) -> str | None:
    """Why nothing can be decided by this look; None if something can."""
    if evidence.candidate.silent:
        until = ": it gets no users until one is" if state.phase == "canary" else ""
        return f"no server of version {state.candidate} is ready{until}"
    if evidence.stable is not None and evidence.stable.silent:
        return f"no server of stable version {state.stable} is ready"
    if not verdicts or evidence.counts is None:
        return "no evidence: " + (evidence.note or "the counts are old or began anew")
    if not _stable_ready(evidence) or evidence.candidate.status != "ready":
        return "a server is not ready"
    if state.baseline is None:
        return f"nothing to compare at {state.weight} % yet"
    paused = state.phase == "canary" and state.weight == 0
    if not paused and _silent(evidence, state):
        return f"no requests in the last {len(state.recent)} looks"
    return None


def _wanting(policy: Policy, evidence: Evidence, state: State) -> str | None:
    """What else is wanting before the next step, proof aside; None if nothing is."""
    assert evidence.counts is not None
    shadow, counts = state.phase == "shadow", evidence.counts
    wanted = (policy.shadow if shadow else policy.canary).min_requests
    answers = exposure(state, counts)[1].requests
    if answers < wanted:
        return f"{answers} of {wanted} requests"
    paired = counts.pairs.requests if counts.pairs else 0
    if shadow and policy.gates.predictions and paired < wanted:
        return f"{paired} of {wanted} paired requests"
    apart = _apart(policy, evidence, state)
    if apart:
        return apart
    if not shadow and _elapsed(evidence, state) < policy.canary.min_duration:
        return f"all is well so far; it has to be for {policy.canary.min_duration:g} s"
    if not _answered(evidence, state):
        return "nobody asked the candidate since the last look"
    return None


def _apart(policy: Policy, evidence: Evidence, state: State) -> str | None:
    """Which estimate alone is beyond its limit; None if none is."""
    assert evidence.counts is not None
    stable, candidate = exposure(state, evidence.counts)
    if state.weight == 100 and state.tests:
        stable = state.tests.stable()
    return beyond(policy.gates, stable, candidate)


def _unproven(verdicts: Iterable[Verdict]) -> str | None:
    """The first gate that is not proven; None if all are. A slice holds nothing up."""
    for verdict in verdicts:
        if verdict.outcome != "pass" and not verdict.of_slice:
            more = f"; about {verdict.more} more requests would decide" if verdict.more else ""
            return f"{verdict.gate}: not proven yet: {verdict.text}{more}"
    return None


def _step(
    policy: Policy,
    evidence: Evidence,
    state: State,
    verdicts: tuple[Verdict, ...],
    unclear: str | None,
) -> Action:
    """The shadow's end, or the next fixed weight. All users come only after proof."""
    waiting = unclear or _wanting(policy, evidence, state)
    if waiting:
        return Action(state.phase, state.weight, waiting)
    if state.phase == "shadow":
        waiting = _unproven(v for v in verdicts if v.gate == "predictions")
        later = (
            outlook(policy, evidence, state).weight()
            if policy.canary.ramp
            else policy.canary.steps[0]
        )
        if later == 0:
            waiting = waiting or "1 % of the traffic could cost more than the harm budget"
    else:
        later = next((w for w in policy.canary.steps if w > state.weight), None)
        waiting = _unproven(verdicts) if later in (None, 100) else None
    if waiting:
        return Action(state.phase, state.weight, waiting)
    if later is None:
        return Action("promote", 100, "every gate is proven within its limit")
    return Action("canary", later, "all gates are within their limits")


def _ramp(
    policy: Policy,
    evidence: Evidence,
    state: State,
    verdicts: tuple[Verdict, ...],
    unclear: str | None,
) -> Action:
    """The weight that the harm budget affords, until all gates are proven."""
    waiting = unclear or _wanting(policy, evidence, state) or _unproven(verdicts)
    if waiting is None:
        return Action("promote", 100, "every gate is proven within its limit")
    seen = outlook(policy, evidence, state)
    weight = seen.weight()
    if weight == 0 and not seen.pauses():
        if unclear or _unproven(verdicts) or _apart(policy, evidence, state):
            return _inconclusive(policy, state, f"{seen}; undecided: {waiting}")
        # The budget is for what is not proven. Of many requests, chance alone spends it.
        weight = 1
    if unclear or (state.weight and not _answered(evidence, state)):
        # Where traffic ends, less of it is at stake, and more of nothing would be affordable.
        weight = min(weight, state.weight)
    if len(state.recent) == RECENT and _silent(evidence, state):
        # Nobody asks, or what asks never gets there: then nothing counts it as failed.
        weight = min(weight, 1)
    if state.weight == 0:
        weight = min(weight, 1)
    return Action("canary", weight, f"{waiting}; {seen}")


def outlook(policy: Policy, evidence: Evidence, state: State) -> Outlook:
    """What the ramp's next weight is chosen by."""
    assert policy.canary.ramp is not None
    tests, verdicts = _look(evidence, state)
    counts = evidence.counts if verdicts else state.last
    assert tests is not None
    age = max(0.0, evidence.time - counts.time) if counts else 0.0
    rate = _rate(state, counts) if counts else state.rate
    shadow = state.phase == "shadow"
    owed, by_chance = (0.0, 0.0) if shadow or not counts else _owed(counts, state.weight)
    return Outlook(
        owed=owed,
        by_chance=by_chance,
        left=policy.canary.ramp.harm_budget - max(0.0, tests.excess),
        bound=1.0 if shadow else tests.excess_bound(),
        shadow_bound=tests.excess_bound() if shadow else tests.shadow_bound,
        # The counts' age, the time to the next look, and as much again to act on it.
        requests=rate * (age + 2 * max(policy.interval, _between_looks(state))),
    )


def _answered(evidence: Evidence, state: State) -> bool:
    """Whether the candidate answered anything since the last look."""
    if state.last is None or evidence.counts is None:
        return False
    return answered(state.last, evidence.counts)[1] > 0


def _silent(evidence: Evidence, state: State) -> bool:
    """Whether the candidate answered nothing in all of the recent looks."""
    if not state.recent or evidence.counts is None:
        return False
    return not answered(state.recent[0], evidence.counts)[1]


def _owed(counts: Counts, weight: int) -> tuple[float, float]:
    """Requests that wait for the candidate, beyond those that would for stable at its weight; and
    how many that may be by chance (two standard deviations of the two Poisson counts)."""
    ours = (counts.candidate or Arm()).pending
    part = weight / (100 - weight)
    theirs = (counts.stable or Arm()).pending
    return max(0.0, ours - theirs * part), 2 * math.sqrt(1 + ours + theirs * part**2)


def _between_looks(state: State) -> float:
    """Seconds, as they were lately: a busy machine looks less often than it should."""
    first, *later = state.recent or (None,)
    return (later[-1].time - first.time) / len(later) if first and later else 0.0


def _inconclusive(policy: Policy, state: State, why: str) -> Action:
    if policy.canary.on_inconclusive == "roll_back":
        return roll_back(why)
    weight = min(policy.canary.hold_weight, state.weight)
    return Action("done", weight, why, "held")


def _promote(policy: Policy, evidence: Evidence, state: State) -> Action:
    if evidence.candidate.status == "ready":
        if state.stable is None:
            return Action("done", 100, "first version, healthy at 100 %", "bootstrapped")
        return Action("done", 100, "every gate was proven within its limit", "promoted")
    if evidence.candidate.status in ("absent", "failed"):
        return roll_back(f"the candidate's servers ended at 100 %: {evidence.candidate.detail}")
    if _elapsed(evidence, state) > policy.deploy.max_duration:
        return roll_back("the candidate stopped answering at 100 %")
    if evidence.candidate.silent and _stable_ready(evidence):
        why = f"no server of version {state.candidate} is ready: users get version {state.stable}"
        return Action("promote", 100, f"{why} until one is")
    return Action("promote", 100, "waiting for the candidate to answer")


def _rollback(policy: Policy, evidence: Evidence, state: State) -> Action:
    if state.stable is None or _stable_ready(evidence):
        return Action("done", 0, state.reason, "rolled_back")
    if _elapsed(evidence, state) > policy.deploy.max_duration:
        why = "stable does not answer either"
        if evidence.candidate.answers:
            why = f"stable does not answer: who gets version {state.candidate} keeps it until then"
        return Action("done", 0, f"{state.reason}; {why}", "rolled_back")
    return Action("rollback", 0, state.reason)


def roll_back(reason: str) -> Action:
    """Back to stable, whatever the state was."""
    return Action("rollback", 0, reason)


def _stable_ready(evidence: Evidence) -> bool:
    return evidence.stable is not None and evidence.stable.status == "ready"


def _elapsed(evidence: Evidence, state: State) -> float:
    return max(0.0, evidence.time - state.since)
