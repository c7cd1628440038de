"""The Kubernetes objects of a training: as the golden YAML has them, and as the API takes them."""

import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from argo.schemas import check
from kubernetes_validate import ValidationError
from pydantic import ValidationError as Refused

from modelyard.pipeline.config.kubernetes import KubernetesSettings
from modelyard.pipeline.launchers.kubernetes.manifests import ClusterTraining, job, objects

GOLDEN = Path(__file__).with_name("golden")
SIMPLE = {
    "namespace": "flights",
    "image": "ghcr.io/acme/flight-delay-training:1",
    "storage": "s3://acme-training/flights",
}
GPUS = SIMPLE | {
    "image": f"ghcr.io/acme/flight-delay-training@sha256:{'0' * 64}",
    "pods": 2, "gpus": 4, "cpu": "16", "memory": "64Gi", "queue": "research", "hours": 48,
    "node_selector": {"accelerator": "h100"}, "secret": "storage", "service_account": "trainer",
}  # fmt: skip
CASES = {"training": (SIMPLE, 2), "training-gpus": (GPUS, 8)}


def training(settings: dict[str, Any], ranks: int) -> ClusterTraining:
    return ClusterTraining(
        name="flight-delay-0123456789ab", module="flight_delay.train", ranks=ranks, restarts=3,
        settings=KubernetesSettings.model_validate(settings),
        variables={
            "MODELYARD_STORAGE": f"{settings['storage']}/flight-delay-0123456789ab",
            "MODELYARD_CODE": "4d2…",
            "DAGSTER_PIPES_CONTEXT": "eJw…",
        },
    )  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_objects_are_as_committed(name: str) -> None:
    made = objects(training(*CASES[name]))
    for manifest in made:
        check(manifest)
    text = yaml.safe_dump_all(made, sort_keys=False, allow_unicode=True, width=100)
    path = GOLDEN / f"{name}.yaml"
    if os.environ.get("MODELYARD_GOLDEN") == "write":
        path.write_text(text)
    assert path.read_text() == text, "run `make golden` and look at the difference"


def test_the_schema_finds_a_typo() -> None:
    made = job(training(*CASES["training"]))
    made["spec"]["podFailurePolicies"] = made["spec"].pop("podFailurePolicy")
    with pytest.raises((ValidationError, jsonschema.ValidationError)):
        check(made)


def test_what_ends_a_training_and_what_does_not() -> None:
    spec = job(training(*CASES["training"]))["spec"]
    mistake, preempted, lost = spec["podFailurePolicy"]["rules"]
    assert (mistake["action"], mistake["onExitCodes"]["values"]) == ("FailJob", [os.EX_SOFTWARE])
    assert preempted["action"] == "Ignore" and "DisruptionTarget" in str(preempted)
    assert (lost["action"], lost["onExitCodes"]["values"]) == ("Ignore", [os.EX_TEMPFAIL])
    # The API takes a podFailurePolicy only with these.
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    assert spec["podReplacementPolicy"] == "Failed"


def test_a_queue_starts_the_job() -> None:
    assert "suspend" not in job(training(*CASES["training"]))["spec"]
    queued = job(training(*CASES["training-gpus"]))
    assert queued["spec"]["suspend"] is True
    assert queued["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "research"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("namespace", "Flights"),
        ("image", "ghcr.io/acme/Flight Delay"),
        ("storage", "/mnt/training"),
        ("storage", "s3://"),
        ("storage", "s3://key:secret@acme-training/flights"),
        ("pods", 0),
        ("cpu", "2 cores"),
        ("memory", "4GB"),
        ("gpus", -1),
        ("queue", "my queue"),
        ("hours", 0),
        ("replicas", 3),
    ],
)
def test_settings_that_no_cluster_takes(key: str, value: object) -> None:
    with pytest.raises(Refused, match=key):
        KubernetesSettings.model_validate(SIMPLE | {key: value})
