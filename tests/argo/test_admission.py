"""What a Workflow in a model's namespace may say, as a real API server judges it.

`MODELYARD_TEST_KUBECONFIG` names the cluster, whose Argo has its CRDs there. Workflows are created
with a dry run: admission decides, and nothing is kept.
"""

import os
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml
from argo.rendered import rendered, template
from support import ROOT

GIVEN = os.environ.get("MODELYARD_TEST_KUBECONFIG")
pytestmark = pytest.mark.skipif(not GIVEN, reason="set MODELYARD_TEST_KUBECONFIG to a cluster")

Change = Callable[[dict[str, Any]], Any]
Create = Callable[[dict[str, Any]], str]
"""a Workflow → why the API server refuses it; empty if it does not"""


def parameters(document: dict[str, Any]) -> list[dict[str, Any]]:
    return document["spec"]["arguments"]["parameters"]


def changed(change: Change) -> dict[str, Any]:
    document = rendered("production", "release/workflow")
    change(document)
    return document


@pytest.fixture(scope="module")
def clusters_client() -> Any:
    from kubernetes import config, dynamic

    return dynamic.DynamicClient(config.new_client_from_config(GIVEN))


@pytest.fixture(scope="module")
def create(clusters_client: Any) -> Iterator[Create]:
    """In a namespace with a model's policy object, once the rule is enforced there."""
    namespace = f"modelyard-{uuid.uuid4().hex[:8]}"
    for document in yaml.safe_load_all((ROOT / "argo/manifests/admission.yaml").read_text()):
        apply(clusters_client, document)
    apply(clusters_client, {"apiVersion": "v1", "kind": "Namespace"} | named(namespace))
    policy = rendered("production", "policy")
    policy["metadata"]["namespace"] = namespace
    apply(clusters_client, policy, namespace)

    def ask(document: dict[str, Any]) -> str:
        return refusal(clusters_client, document, namespace)

    end = time.monotonic() + 60
    while not ask(changed(lambda d: d["spec"].update(entrypoint="step"))):
        assert time.monotonic() < end, "nothing is refused after a minute"
        time.sleep(0.2)
    yield ask
    clusters_client.resources.get(api_version="v1", kind="Namespace").delete(name=namespace)


def named(name: str) -> dict[str, Any]:
    return {"metadata": {"name": name}}


def apply(client: Any, document: dict[str, Any], namespace: str | None = None) -> None:
    kind = client.resources.get(api_version=document["apiVersion"], kind=document["kind"])
    name = document["metadata"]["name"]
    kind.server_side_apply(
        body=document, name=name, namespace=namespace, field_manager="tests", force_conflicts=True
    )


def refusal(client: Any, document: dict[str, Any], namespace: str) -> str:
    from kubernetes.client import ApiException

    document = document | {"metadata": document["metadata"] | {"namespace": namespace}}
    kind = client.resources.get(api_version=document["apiVersion"], kind=document["kind"])
    try:
        kind.create(body=document, namespace=namespace, dry_run="All")
    except ApiException as error:
        assert error.status in (403, 422), error.body  # 422: by the definition of a Workflow
        return str(error.body)
    return ""


@pytest.mark.parametrize(
    "change",
    [
        lambda d: None,
        lambda d: parameters(d).reverse(),
        lambda d: parameters(d)[1].update(value=""),
        # As Argo's own clients write it.
        lambda d: d.update(status={"startedAt": None, "finishedAt": None}),
        lambda d: d["metadata"].update(labels={"app": "any"}),
    ],
    ids=["rendered", "in-another-order", "by-its-tag", "an-empty-status", "labels"],
)
def test_a_release_is_taken(create: Create, change: Change) -> None:
    assert create(changed(change)) == ""


SPEC = "its spec may have arguments and the workflowTemplateRef"
REFERENCE = "its workflowTemplateRef has to be modelyard-release-v"
ARGUMENTS = "its arguments have to be the parameters version and digest"
STATUS = "it may have no status"
PLANTED = template()["spec"]
OTHER = {"templates": [{"name": "other", "container": {"image": "any", "command": ["any"]}}]}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda d: d["spec"].update(entrypoint="step"), SPEC),
        (lambda d: d["spec"].update(serviceAccountName="modelyard-release"), SPEC),
        (lambda d: d["spec"].update(OTHER | {"entrypoint": "other"}), SPEC),
        (lambda d: d["spec"].update(podSpecPatch="{}"), SPEC),
        (lambda d: d["spec"].update(shutdown="Terminate"), SPEC),
        (lambda d: d["spec"].update(suspend=True), SPEC),
        (lambda d: d["spec"].update(hooks={"exit": {"template": "watch"}}), SPEC),
        (lambda d: d["spec"].update(metrics={"prometheus": []}), SPEC),
        (lambda d: d["spec"].pop("workflowTemplateRef"), REFERENCE),
        (lambda d: d["spec"]["workflowTemplateRef"].update(name="other"), REFERENCE),
        (lambda d: d["spec"]["workflowTemplateRef"].pop("clusterScope"), REFERENCE),
        (lambda d: d["spec"]["workflowTemplateRef"].update(clusterScope=False), REFERENCE),
        (lambda d: d["spec"].pop("arguments"), ARGUMENTS),
        (lambda d: d["spec"]["arguments"].update(artifacts=[{"name": "a"}]), ARGUMENTS),
        (lambda d: parameters(d).append({"name": "image", "value": "any"}), ARGUMENTS),
        (lambda d: parameters(d).pop(), ARGUMENTS),
        (lambda d: parameters(d)[0].update(globalName="version"), ARGUMENTS),
        (lambda d: parameters(d).__setitem__(0, parameters(d)[1]), "the parameter version"),
        (lambda d: parameters(d)[0].update(value="2 --env other"), "the parameter version"),
        (lambda d: parameters(d)[0].update(value="{{workflow.name}}"), "the parameter version"),
        (lambda d: parameters(d)[0].update(value="0"), "the parameter version"),
        (lambda d: parameters(d)[1].update(value="sha256:1"), "the parameter digest"),
        (lambda d: parameters(d)[1].update(value="latest\n"), "the parameter digest"),
        (lambda d: d.update(status={"storedWorkflowTemplateSpec": PLANTED}), STATUS),
        (lambda d: d.update(status={"phase": "Running"}), STATUS),
        (lambda d: d.pop("spec"), ""),
    ],
)
def test_anything_else_is_refused(create: Create, change: Change, problem: str) -> None:
    assert problem in create(changed(change)) != ""


def test_other_namespaces_are_let_alone(clusters_client: Any) -> None:
    document = changed(lambda d: d["spec"].update(serviceAccountName="any"))
    assert refusal(clusters_client, document, "default") == ""
