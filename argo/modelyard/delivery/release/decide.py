"""The next action of a release: `decide(state, seen) -> Action`.

    preflight → deploy → shadow → canary at each weight → promote → done: promoted
                  │         └──────────────┬───────────────┘
                  │                        ├→ done: held            (undecided in time)
                  └────────────────────────┴→ rollback → done: rolled_back

Without a stable version the way is preflight → deploy → promote → done: bootstrapped.

Missing, old or restarted counts never advance a release; they can only let its time run out.
Nothing here looks at a clock or a file.
"""

import math
from collections.abc import Iterable

from modelyard.delivery.evidence.counts import Arm, Counts
from modelyard.delivery.evidence.differences import answered
from modelyard.delivery.evidence.looks import Evidence
from modelyard.delivery.gates.harm_budget import Outlook
from modelyard.delivery.gates.trial import limit_exceeded
from modelyard.delivery.gates.verdicts import Verdict
from modelyard.delivery.release.assess import Assessment, user_rate
from modelyard.delivery.release.state import RECENT, Action, State, exposure, is_step


def decide(state: State, seen: Assessment) -> Action:
    """The one place where a release's way is decided, by the policy that it began with.

    Args:
        seen: by the tests of this very state.
    """
    match state.phase:
        case "preflight":
            return Action("deploy", 0, "the artifact is there")
        case "deploy":
            return _deploy(state, seen.evidence)
        case "shadow" | "canary":
            return _watch(state, seen)
        case "promote":
            return _promote(state, seen.evidence)
        case "rollback":
            return _rollback(state, seen.evidence)
        case "done":
            return Action("done", state.weight, state.reason, state.decision)


def _deploy(state: State, evidence: Evidence) -> Action:
    candidate, waited = evidence.candidate, _elapsed(state, evidence)
    if candidate.status == "failed":
        return roll_back(f"version {state.candidate} did not get ready: {candidate.detail}")
    ready = candidate.status == "ready" and (state.stable is None or _stable_ready(evidence))
    if ready and not evidence.unreached:
        if state.stable is None:
            return Action("promote", 100, "ready; there is no stable version to compare with")
        return Action("shadow", 0, "ready")
    if ready and waited > state.policy.deploy.max_duration:
        first = "" if state.stable else "; it is the first version: nobody is served, as before"
        return roll_back(
            f"version {state.candidate} is ready, but out of reach after {waited:.0f} s: "
            f"{evidence.unreached}{first}"
        )
    if waited > state.policy.deploy.max_duration:
        who, health = (
            (f"version {state.candidate}", candidate)
            if candidate.status != "ready" or evidence.stable is None
            else (f"stable version {state.stable}", evidence.stable)
        )
        return roll_back(f"{who} was not ready after {waited:.0f} s: {health.detail}")
    if ready:
        return Action("deploy", 0, f"ready, but out of reach, {waited:.0f} s: {evidence.unreached}")
    return Action("deploy", 0, f"waiting for the servers, {waited:.0f} s")


def _watch(state: State, seen: Assessment) -> Action:
    policy, evidence, verdicts = state.policy, seen.evidence, seen.verdicts
    if evidence.candidate.status in ("absent", "failed"):
        return roll_back(f"the candidate's servers ended: {evidence.candidate.detail}")
    silent = evidence.time - state.ready
    if evidence.candidate.status != "ready" and silent > state.policy.deploy.max_duration:
        why = f"the candidate has not been ready for {silent:.0f} s"
        return roll_back(f"{why}: {evidence.candidate.detail}")
    failed = next((v for v in verdicts if v.outcome == "fail"), None)
    if failed:
        return roll_back(f"{failed.gate}: {failed.text}")
    unclear = _unclear(state, seen)
    if policy.canary.ramp and state.phase == "canary":
        action = _ramp(state, seen, unclear)
    else:
        action = _step(state, seen, unclear)
    phase = policy.shadow if state.phase == "shadow" else policy.canary
    elapsed = _elapsed(state, evidence)
    stays = action.phase == state.phase and not is_step(state, action.weight)
    if stays and elapsed > phase.max_duration:
        why = f"undecided after {elapsed:.0f} s: {action.reason}"
        unproven = _unproven(verdicts) if state.phase == "canary" else None
        return _inconclusive(
            state, f"{why}; {unproven}" if unproven and unproven not in why else why
        )
    return action


def _unclear(state: State, seen: Assessment) -> str | None:
    """Why nothing can be decided by this look; None if something can."""
    evidence = seen.evidence
    if evidence.candidate.silent:
        meanwhile = ": it gets no users until one is" if state.phase == "canary" else ""
        return f"no server of version {state.candidate} is ready{meanwhile}"
    if evidence.stable is not None and evidence.stable.silent:
        return f"no server of stable version {state.stable} is ready"
    if not seen.verdicts or evidence.counts is None:
        return "no evidence: " + (evidence.note or "the counts are stale or were restarted")
    if not _stable_ready(evidence) or evidence.candidate.status != "ready":
        return "a server is not ready"
    if state.baseline is None:
        return f"nothing to compare at {state.weight} % yet"
    paused = state.phase == "canary" and state.weight == 0
    if not paused and _silent(state, evidence):
        return f"no requests in the last {len(state.recent)} looks"
    return None


def _wanting(state: State, evidence: Evidence) -> str | None:
    """What else is wanting before the next step, proof aside; None if nothing is."""
    policy = state.policy
    assert evidence.counts is not None
    shadow, counts = state.phase == "shadow", evidence.counts
    wanted = (policy.shadow if shadow else policy.canary).min_requests
    answers = exposure(state, counts)[1].requests
    if answers < wanted:
        return f"{answers} of {wanted} requests"
    paired = counts.pairs.requests if counts.pairs else 0
    if shadow and policy.gates.predictions and paired < wanted:
        return f"{paired} of {wanted} paired requests"
    apart = _apart(state, evidence)
    if apart:
        return apart
    if not shadow and _elapsed(state, evidence) < policy.canary.min_duration:
        return f"no harm so far; min_duration is {policy.canary.min_duration:g} s"
    if not _answered(state, evidence):
        return "no request reached the candidate since the last look"
    return None


def _apart(state: State, evidence: Evidence) -> str | None:
    """Which estimate alone is beyond its limit; None if none is."""
    assert evidence.counts is not None
    stable, candidate = exposure(state, evidence.counts)
    if state.weight == 100 and state.tests:
        stable = state.tests.stable()
    return limit_exceeded(state.policy.gates, stable, candidate)


def _unproven(verdicts: Iterable[Verdict]) -> str | None:
    """The first gate that is not proven; None if all are. A slice holds nothing up."""
    for verdict in verdicts:
        if verdict.outcome != "pass" and not verdict.of_slice:
            more = f"; about {verdict.more} more requests would decide" if verdict.more else ""
            return f"{verdict.gate}: not proven yet: {verdict.text}{more}"
    return None


def _step(state: State, seen: Assessment, unclear: str | None) -> Action:
    """The shadow's end, or the next fixed weight. All users come only after proof."""
    policy, verdicts = state.policy, seen.verdicts
    waiting = unclear or _wanting(state, seen.evidence)
    if waiting:
        return Action(state.phase, state.weight, waiting)
    if state.phase == "shadow":
        waiting = _unproven(v for v in verdicts if v.gate == "predictions")
        later = outlook(state, seen).weight() if policy.canary.ramp else policy.canary.steps[0]
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


def _ramp(state: State, seen: Assessment, unclear: str | None) -> Action:
    """The weight that the harm budget affords, until all gates are proven."""
    evidence, verdicts = seen.evidence, seen.verdicts
    waiting = unclear or _wanting(state, evidence) or _unproven(verdicts)
    if waiting is None:
        return Action("promote", 100, "every gate is proven within its limit")
    ahead = outlook(state, seen)
    weight = ahead.weight()
    if weight == 0 and not ahead.pauses():
        if unclear or _unproven(verdicts) or _apart(state, evidence):
            return _inconclusive(state, f"{ahead}; undecided: {waiting}")
        # The budget is for what is not proven. Of many requests, chance alone spends it.
        weight = 1
    if unclear or (state.weight and not _answered(state, evidence)):
        # Where traffic ends, less of it is at stake, and more of nothing would be affordable.
        weight = min(weight, state.weight)
    if len(state.recent) == RECENT and _silent(state, evidence):
        # Nobody asks, or what asks never gets there: then nothing counts it as failed.
        weight = min(weight, 1)
    if state.weight == 0:
        weight = min(weight, 1)
    return Action("canary", weight, f"{waiting}; {ahead}")


def outlook(state: State, seen: Assessment) -> Outlook:
    """What the ramp's next weight is chosen by."""
    policy, tests = state.policy, seen.tests
    assert policy.canary.ramp is not None and tests is not None
    counts = seen.evidence.counts if seen.verdicts else state.last
    age = max(0.0, seen.evidence.time - counts.time) if counts else 0.0
    rate = user_rate(state, counts) if counts else state.rate
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


def _answered(state: State, evidence: Evidence) -> bool:
    """Whether the candidate answered anything since the last look."""
    if state.last is None or evidence.counts is None:
        return False
    return answered(state.last, evidence.counts)[1] > 0


def _silent(state: State, evidence: Evidence) -> bool:
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


def _inconclusive(state: State, why: str) -> Action:
    canary = state.policy.canary
    if canary.on_inconclusive == "roll_back":
        return roll_back(why)
    weight = min(canary.hold_weight, state.weight)
    return Action("done", weight, why, "held")


def _promote(state: State, evidence: Evidence) -> Action:
    if evidence.candidate.status == "ready":
        if state.stable is None:
            return Action("done", 100, "first version, healthy at 100 %", "bootstrapped")
        return Action("done", 100, "every gate was proven within its limit", "promoted")
    if evidence.candidate.status in ("absent", "failed"):
        return roll_back(f"the candidate's servers ended at 100 %: {evidence.candidate.detail}")
    if _elapsed(state, evidence) > state.policy.deploy.max_duration:
        return roll_back("the candidate stopped answering at 100 %")
    if evidence.candidate.silent and _stable_ready(evidence):
        why = f"no server of version {state.candidate} is ready: users get version {state.stable}"
        return Action("promote", 100, f"{why} until one is")
    return Action("promote", 100, "waiting for the candidate to answer")


def _rollback(state: State, evidence: Evidence) -> Action:
    if state.stable is None or _stable_ready(evidence):
        return Action("done", 0, state.reason, "rolled_back")
    if _elapsed(state, evidence) > state.policy.deploy.max_duration:
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


def _elapsed(state: State, evidence: Evidence) -> float:
    return max(0.0, evidence.time - state.since)
