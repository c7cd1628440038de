"""A distributed training as Kubernetes objects: pure functions of its settings.

An Indexed Job has a pod for each share of the ranks; a headless Service gives them names,
by which they meet at the first one (torchrun's c10d rendezvous); a NetworkPolicy keeps
others away from them, since that meeting place asks nobody who they are.
"""

import os
from dataclasses import dataclass
from typing import Any

from modelyard.pipeline.config.kubernetes import KubernetesSettings

Manifest = dict[str, Any]

WORK = "/scratch"
"""where a pod keeps arrays, checkpoints and logs"""
CONTAINER = "training"
RENDEZVOUS_PORT = 29400
MISTAKE_CODE = os.EX_SOFTWARE
"""exit code of a pod whose rank raised an exception of its own: trying again would not help"""
AGAIN_CODE = os.EX_TEMPFAIL
"""exit code of a pod that lost the others or was told to stop: to be started again"""
GRACE_SECONDS = 90
"""for the checkpoint on SIGTERM (`launcher.GRACE`) and its way to the storage"""
KEPT_SECONDS = 24 * 3600
"""that a Job which nobody collected stays to be looked at"""
USER = 65532
LABEL = "modelyard/training"


@dataclass(frozen=True, kw_only=True)
class ClusterTraining:
    """All that the objects of one training depend on."""

    name: str
    """of its objects, a DNS label"""
    module: str
    settings: KubernetesSettings
    ranks: int
    restarts: int
    variables: dict[str, str]
    """of each pod's environment: storage, code, Dagster Pipes"""

    @property
    def ranks_per_pod(self) -> int:
        return self.ranks // self.settings.pods

    @property
    def labels(self) -> dict[str, str]:
        return {LABEL: self.name, "app.kubernetes.io/managed-by": "modelyard"}


def objects(training: ClusterTraining) -> list[Manifest]:
    """The Job first: the others belong to it, and go when it goes."""
    return [job(training), service(training), network_policy(training)]


def job(training: ClusterTraining) -> Manifest:
    settings = training.settings
    queue = {"kueue.x-k8s.io/queue-name": settings.queue} if settings.queue else {}
    metadata = _metadata(training)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata | {"labels": training.labels | queue},
        "spec": {
            "completionMode": "Indexed",
            "completions": settings.pods,
            "parallelism": settings.pods,
            # Kueue starts it when there is room for all pods.
            **({"suspend": True} if queue else {}),
            # Of the whole Job: a training lacks nothing less when one index has used up its own.
            "backoffLimit": training.restarts,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {"rules": _rules()},
            "activeDeadlineSeconds": int(settings.hours * 3600),
            "ttlSecondsAfterFinished": KEPT_SECONDS,
            "template": {"metadata": {"labels": training.labels}, "spec": _pod(training)},
        },
    }


def _rules() -> list[Manifest]:
    def exits(code: int) -> Manifest:
        return {"containerName": CONTAINER, "operator": "In", "values": [code]}

    disrupted = {"type": "DisruptionTarget", "status": "True"}
    return [
        {"action": "FailJob", "onExitCodes": exits(MISTAKE_CODE)},
        {"action": "Ignore", "onPodConditions": [disrupted]},
        # The others of a pod that went away: the loss is counted once, or not at all.
        {"action": "Ignore", "onExitCodes": exits(AGAIN_CODE)},
    ]


def service(training: ClusterTraining) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(training),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": training.labels,
            "ports": [{"name": "rendezvous", "port": RENDEZVOUS_PORT}],
        },
    }


def network_policy(training: ClusterTraining) -> Manifest:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": _metadata(training),
        "spec": {
            "podSelector": {"matchLabels": training.labels},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"podSelector": {"matchLabels": training.labels}}]}],
        },
    }


def _metadata(training: ClusterTraining) -> Manifest:
    return {
        "name": training.name,
        "namespace": training.settings.namespace,
        "labels": training.labels,
    }


def _pod(training: ClusterTraining) -> Manifest:
    settings = training.settings
    gpu = {settings.gpu_resource: settings.gpus} if settings.gpus else {}
    tolerated = {"key": settings.gpu_resource, "operator": "Exists", "effect": "NoSchedule"}
    return {
        "subdomain": training.name,
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "serviceAccountName": settings.service_account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        **({"nodeSelector": settings.node_selector} if settings.node_selector else {}),
        **({"tolerations": [tolerated]} if gpu else {}),
        "containers": [_container(training, gpu)],
        "volumes": [
            {"name": "work", "emptyDir": {"sizeLimit": settings.disk}},
            {"name": "tmp", "emptyDir": {}},
            # NCCL's ranks exchange through it; 64 MiB, the default, is too little.
            {"name": "shm", "emptyDir": {"medium": "Memory"}},
        ],
    }


def _container(training: ClusterTraining, gpu: Manifest) -> Manifest:
    settings = training.settings
    secret = [{"secretRef": {"name": settings.secret}}] if settings.secret else []
    places = {"work": WORK, "tmp": "/tmp", "shm": "/dev/shm"}
    return {
        "name": CONTAINER,
        "image": settings.image,
        "command": [
            "python",
            "-m",
            "modelyard.pipeline.launchers.kubernetes.entrypoint",
            training.module,
        ],
        "env": [{"name": key, "value": value} for key, value in _variables(training).items()],
        **({"envFrom": secret} if secret else {}),
        "resources": {
            "requests": {
                "cpu": settings.cpu,
                "memory": settings.memory,
                "ephemeral-storage": settings.disk,
                **gpu,
            },
            "limits": {"memory": settings.memory, **gpu},
        },
        # The last lines of a pod that could not say what went wrong.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "volumeMounts": [{"name": name, "mountPath": path} for name, path in places.items()],
    }


def _variables(training: ClusterTraining) -> dict[str, str]:
    threads = max(1, int(cores(training.settings.cpu)) // training.ranks_per_pod)
    return {
        "MODELYARD_PODS": str(training.settings.pods),
        "MODELYARD_RANKS_PER_POD": str(training.ranks_per_pod),
        "MODELYARD_ADDRESS": f"{training.name}-{{index}}.{training.name}",
        "MODELYARD_PORT": str(RENDEZVOUS_PORT),
        "MODELYARD_WORK": WORK,
        "OMP_NUM_THREADS": str(threads),
        "HOME": "/tmp",
        **training.variables,
    }


def cores(cpu: str) -> float:
    """`500m` → 0.5"""
    return float(cpu[:-1]) / 1000 if cpu.endswith("m") else float(cpu)
