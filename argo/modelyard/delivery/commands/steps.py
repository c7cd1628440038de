"""A release step by step, for a workflow engine that decides nothing by itself.

Each step reads the record and goes on from there, so it can be tried again at any time. What a
later node depends on is handed to the engine as files.
"""

import os
from collections.abc import Callable
from pathlib import Path

from modelyard.delivery.policy import Kubernetes, Local, Policy
from modelyard.delivery.release.controller import Controller
from modelyard.delivery.release.state import Provenance, State
from modelyard.delivery.step_interface import APPROVE, OUTPUTS_VARIABLE, Next, StepName
from modelyard.documents import UserError

Place = Local | Kubernetes
_OVERHEAD_S = 300
"""that a step may take beyond its policy: image pull, a slow API"""


def take(
    name: StepName, controller: Controller, version: int, place: Place, provenance: Provenance
) -> State:
    """Go to the end of a step that is not `rollback`.

    Raises:
        Unchanged: the version is the stable one.
        UserError: it can't; the release is as it was.
    """
    workflow = provenance.workflow
    if name is StepName.deploy:
        state = controller.advance(controller.open(version, provenance), "deploy")
        if following(state, place) is not Next.done:
            return state
        return controller.advance(state)
    state = controller.begun(version)
    if state.decision is not None:
        print(f"version {version} was {state.decision.replace('_', ' ')} already")
    if name is StepName.watch:
        return controller.watch(state, _waiting(place, workflow))
    if name is StepName.promote:
        if state.phase != "done":
            _check_approved(place, workflow)
        return controller.advance(state)
    return controller.advance(state, "shadow" if name is StepName.shadow else "canary")


def following(state: State, place: Place) -> Next:
    """What comes after a deployment. A first version is promoted right there."""
    if state.phase == "done":
        return Next.done
    if state.stable is not None:
        return Next.compare
    return Next.approve if asks_for_approval(place) else Next.done


def hand_on(following: Next, place: Place) -> None:
    """Write the outputs of `deploy`, where an engine wants some."""
    folder = os.environ.get(OUTPUTS_VARIABLE)
    if not folder:
        return
    outputs = {
        "next": following.value,
        "approval": str(asks_for_approval(place)).lower(),
        "deadline": str(deadline(place.policy)),
    }
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, value in outputs.items():
        (Path(folder) / name).write_text(value)


def deadline(policy: Policy) -> int:
    """Seconds that a later step may take at most; beyond it, it hangs."""
    canary = policy.canary.max_duration * max(1, len(policy.canary.steps))
    longest = max(policy.deploy.max_duration, policy.shadow.max_duration, canary)
    return int(longest) + _OVERHEAD_S


def asks_for_approval(place: Place) -> bool:
    return isinstance(place, Kubernetes) and place.approval


def _waiting(place: Place, workflow: str | None) -> Callable[[], bool]:
    from modelyard.delivery.cluster.client import Cluster
    from modelyard.delivery.cluster.workflow import WORKFLOW, approval_is_due

    if not isinstance(place, Kubernetes):
        raise UserError("step watch needs a Kubernetes environment: a workflow waits there")
    if not workflow:
        raise UserError("step watch needs --workflow: it ends when that one is approved")
    cluster = Cluster(place.namespace)
    return lambda: approval_is_due(cluster.get(WORKFLOW, workflow), APPROVE)


def _check_approved(place: Place, workflow: str | None) -> None:
    """Raises: UserError: the policy asks for a person's approval, and there is none."""
    from modelyard.delivery.cluster.client import Cluster
    from modelyard.delivery.cluster.workflow import WORKFLOW, is_approved

    if not isinstance(place, Kubernetes) or not place.approval:
        return
    if not workflow:
        raise UserError(
            "the policy has `approval: true`: step promote needs --workflow, the workflow in "
            f"namespace {place.namespace} whose node {APPROVE} a person has resumed"
        )
    if not is_approved(Cluster(place.namespace).get(WORKFLOW, workflow), APPROVE):
        raise UserError(
            f"the policy has `approval: true`, and nobody has resumed the node {APPROVE} of "
            f"workflow {workflow} in namespace {place.namespace}: nothing is promoted"
        )
