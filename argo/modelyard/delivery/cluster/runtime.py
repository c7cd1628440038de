"""Runtime on Kubernetes: a Deployment, a Service and an autoscaler a version."""

from collections.abc import Callable

from modelyard.delivery.cluster.client import Cluster
from modelyard.delivery.evidence.looks import Health
from modelyard.delivery.manifests import objects
from modelyard.delivery.manifests.objects import Manifest, Target
from modelyard.documents import UserError

_DEPLOYMENT = ("apps/v1", "Deployment")
# A pod that waits for one of these does not get ready by waiting longer.
_HOPELESS = {
    "CrashLoopBackOff",
    "CreateContainerConfigError",
    "CreateContainerError",
    "ImagePullBackOff",
    "InvalidImageName",
    "RunContainerError",
}


class DeploymentRuntime:
    """Runtime: a Deployment, a Service and an autoscaler a version."""

    def __init__(
        self,
        cluster: Cluster,
        target: Target,
        digest: Callable[[int], str | None] = lambda version: None,
    ) -> None:
        """Args: digest: of a version's image, as the record knows it."""
        self._cluster, self._target, self._digest = cluster, target, digest

    def check(self, version: int) -> None:
        account = objects.service_account(self._target, self._target.model, token=False)
        if self._cluster.get(("v1", "ServiceAccount"), account["metadata"]["name"]) is None:
            raise UserError(
                f"namespace {self._target.namespace} has no ServiceAccount {self._target.model}: "
                f"kubectl apply -f argo/manifests/{self._target.environment} first"
            )

    def deploy(self, version: int) -> None:
        """What is there keeps its image, whatever is asked for now."""
        present = self._cluster.get(_DEPLOYMENT, self._target.name(version))
        known = image_of(present) or self._target.image_of(version, self._digest(version))
        for manifest in self._objects(version, known):
            self._cluster.apply(manifest)

    def health(self, version: int) -> Health:
        deployment = self._cluster.get(_DEPLOYMENT, self._target.name(version))
        pods = self._cluster.list(("v1", "Pod"), objects.labels(self._target, version))
        return health_of(deployment, pods, self._target.replicas)

    def stop(self, version: int) -> None:
        for manifest in reversed(self._objects(version)):
            self._cluster.delete(manifest)

    def versions(self) -> set[int]:
        found = self._cluster.list(_DEPLOYMENT, objects.labels(self._target))
        return {int(d["metadata"]["labels"]["app.kubernetes.io/version"]) for d in found}

    def _objects(self, version: int, image: str | None = None) -> list[Manifest]:
        return [
            objects.deployment(self._target, version, image),
            objects.service(self._target, version),
            objects.autoscaler(self._target, version),
        ]


def image_of(deployment: Manifest | None) -> str | None:
    """That the serving container of a Deployment has; None where there is no Deployment."""
    containers = deployment["spec"]["template"]["spec"]["containers"] if deployment else []
    return next((each["image"] for each in containers if each["name"] == "serving"), None)


def health_of(deployment: Manifest | None, pods: list[Manifest], replicas: int) -> Health:
    """A version is ready when `replicas` pods of its newest template are available.

    Fewer will do where it was deployed by a policy that asks for fewer. It has not failed while
    any of its pods is ready.
    """
    if deployment is None:
        return Health(status="absent", detail="it has no Deployment", ready=0)
    status = deployment.get("status") or {}
    replicas = max(1, min(replicas, deployment["spec"].get("replicas", replicas)))
    seen = status.get("observedGeneration", 0) >= deployment["metadata"]["generation"]
    # Pods that are being deleted are not among these.
    ready = status.get("readyReplicas") or 0
    updated = min(status.get("updatedReplicas") or 0, status.get("availableReplicas") or 0)
    if seen and updated >= replicas and ready:
        return Health(status="ready", ready=ready)
    why = _hopeless(pods) or (_stuck(status) if seen else "")
    if why and not ready:
        return Health(status="failed", detail=why, ready=0)
    available = f"{updated} of {replicas} pods available"
    return Health(
        status="starting", detail=f"{available}; {why}" if why else available, ready=ready
    )


def _hopeless(pods: list[Manifest]) -> str:
    """What a pod waits for in vain; empty if none does."""
    for pod in pods:
        for container in (pod.get("status") or {}).get("containerStatuses") or []:
            waiting = (container.get("state") or {}).get("waiting") or {}
            if waiting.get("reason") in _HOPELESS:
                what = f"{pod['metadata']['name']}: {waiting['reason']}"
                return f"{what}: {waiting['message']}" if waiting.get("message") else what
    return ""


def _stuck(status: Manifest) -> str:
    """Why a Deployment gets no further; empty if it may."""
    for condition in status.get("conditions") or []:
        failed = condition["type"] == "ReplicaFailure" and condition["status"] == "True"
        if failed or condition.get("reason") == "ProgressDeadlineExceeded":
            return condition.get("message") or condition["type"]
    return ""
