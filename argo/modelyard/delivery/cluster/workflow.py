"""The Workflow that a release is a part of: does it wait for a person, and has one approved?"""

from modelyard.delivery.manifests.objects import Manifest

WORKFLOW = ("argoproj.io/v1alpha1", "Workflow")


def approval_is_due(workflow: Manifest | None, node: str) -> bool:
    """Whether a workflow still waits for a person at a suspended node.

    It is not when the node has ended, or with it the workflow. A node that is not there yet
    begins in the same breath as whoever asks.
    """
    status = (workflow or {}).get("status") or {}
    if workflow is None or status.get("phase") in ("Succeeded", "Failed", "Error"):
        return False
    nodes = (status.get("nodes") or {}).values()
    phases = [n.get("phase") for n in nodes if n.get("displayName") == node]
    return all(phase in ("Pending", "Running") for phase in phases)


def is_approved(workflow: Manifest | None, node: str) -> bool:
    """Whether a person has resumed a workflow at a suspended node."""
    nodes = (((workflow or {}).get("status") or {}).get("nodes") or {}).values()
    return any(
        (n.get("displayName"), n.get("type"), n.get("phase")) == (node, "Suspend", "Succeeded")
        for n in nodes
    )
