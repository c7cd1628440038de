"""What the record may not say: events that a release can't have written."""

import math
from typing import Any

from modelyard.delivery.gates.verdicts import Verdict
from modelyard.delivery.policy import Policy
from modelyard.delivery.release.state import State
from modelyard.documents import ReleaseEvent
from modelyard.documents.record import APPEND_ONLY, Changed, Decision, Phase

_ROUNDING = 2e-5
"""by which e-values of six digits may differ, relatively, between machines"""


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


def check_event(state: State, event: ReleaseEvent) -> None:
    """Raises: Changed: the event can't follow this state."""
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
    if falls and state.judged and not state.policy.canary.ramp:
        raise Changed(f"{where}: the weight fell from {state.weight} to {event.weight}")
    taken_over = event.decision in ("promoted", "bootstrapped")
    if event.stable != (event.candidate if taken_over else state.stable):
        raise Changed(f"{where}: stable changed from {state.stable} to {event.stable}")


def check_verdicts(state: State, event: ReleaseEvent, verdicts: tuple[Verdict, ...]) -> None:
    """The e-values follow from the counts, and the weight from the e-values.

    Args:
        verdicts: found anew from the event's counts.

    Raises:
        Changed: they do not.
    """
    if not state.judged:
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
