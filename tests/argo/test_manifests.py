"""The rendered YAML: golden files, published schemas, and planted faults in each check."""

import copy
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from argo.entry import Done, modelyard
from argo.schemas import broken_references, check, documents
from support import ROOT

from modelyard.delivery.manifests import objects, platform
from modelyard.delivery.manifests.objects import Target
from modelyard.documents.version import image_tag

PLATFORM = ROOT / "argo" / "manifests"
MODEL = ROOT / "tests" / "argo" / "model"
ALL = [*documents(PLATFORM), *documents(MODEL / "argo" / "manifests")]
TEMPLATE: dict[str, Any] = next(d for _, d in ALL if d["kind"] == "ClusterWorkflowTemplate")


def name(case: tuple[Path, dict[str, Any]]) -> str:
    path, document = case
    where = path.relative_to(ROOT).parts[-3:]
    return "/".join(where) + ":" + document["kind"]


@pytest.fixture
def target() -> Target:
    return Target(
        model="flight-delay",
        environment="production",
        namespace="flight-delay-production",
        image="ghcr.io/acme/flight-delay",
        version=2,
        host="flight-delay.example.com",
        gateway="edge/public",
        prometheus="http://prometheus.monitoring.svc:9090",
    )


def test_platform_golden() -> None:
    """Regenerate with `modelyard manifests --write`."""
    image = f"modelyard-delivery:{image_tag()}"
    generated = platform.platform_files(image)
    assert {path.name: path.read_text() for path in PLATFORM.glob("*.yaml")} == generated


def test_model_golden() -> None:
    """Regenerate with `(cd tests/argo/model && modelyard render)`."""
    done = modelyard(MODEL, "render", "--check")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("case", ALL, ids=name)
def test_schema(case: tuple[Path, dict[str, Any]]) -> None:
    check(case[1])


@pytest.mark.parametrize("case", ALL, ids=name)
def test_a_typo_is_caught(case: tuple[Path, dict[str, Any]]) -> None:
    for broken in typos(case[1]):
        with pytest.raises(jsonschema.ValidationError):
            check(broken)


def typos(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The document with an unknown field at its top and deep inside of its biggest part."""
    top, deep = copy.deepcopy(document), copy.deepcopy(document)
    top["spce"] = {}
    part = deep.get("spec") or deep.get("rules") or deep.get("roleRef") or deep["metadata"]
    while isinstance(part, list) or "template" in part and isinstance(part["template"], dict):
        part = part[0] if isinstance(part, list) else part["template"]
    part["naem"] = "typo"
    return [top, deep]


def test_hera_accepts_the_workflow_objects() -> None:
    from hera.workflows import models

    for document in (d for _, d in ALL if "argoproj" in d["apiVersion"]):
        model = getattr(models, document["kind"])
        schema = model.model_json_schema()
        for part in [schema, *schema["$defs"].values()]:
            if "properties" in part:
                part["additionalProperties"] = False
        validator = jsonschema.Draft202012Validator(schema)
        validator.validate(document)
        planted = copy.deepcopy(document)
        planted["spec"]["entrypont"] = "release"
        with pytest.raises(jsonschema.ValidationError, match="entrypont"):
            validator.validate(planted)


def test_references() -> None:
    assert broken_references(TEMPLATE) == []


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("onExit: outcome", "onExit: outcme", "onExit: no template outcme"),
        ("entrypoint: release", "entrypoint: relaese", "entrypoint: no template relaese"),
        ("template: watch", "template: wacth", "approval.watch: no template wacth"),
        (
            "parameters.step}}",
            "parameters.stpe}}",
            "step: nothing is known as inputs.parameters.st",
        ),
        ("parameters.version}}", "parameters.versoin}}", "workflow.parameters.versoin"),
        (r"workflow\.name}}", "workflow.nmae}}", "watch: nothing is known as workflow.nmae"),
        (
            "outputs.parameters.next}}",
            "outputs.parameters.nxet}}",
            "steps.deploy.outputs.parameters",
        ),
        (
            "template: deploy\n",
            "template: deploy\n            when: 1 == 1\n",
            "release: nothing is known as steps.deploy.outputs.parameters.next",
        ),
        ("inputs.parameters.approval}} ==", "workflow.status}} ==", "rollout: nothing is known as"),
        (r"name: step\n +value: shadow", "name: stpe", "rollout.shadow: lacks argument step"),
        (r"name: step\n +value: shadow", "name: stpe", "rollout.shadow: unknown argument stpe"),
        ("template: write-back", "template: rollback", "write-back: no step uses it"),
        (r"(mountPath: /credentials\n +name: )git", r"\1gti", "write-back: no volume gti"),
        (r" +- mountPath: /cred.*\n +name: git\n", "", "write-back: nothing mounts volume git"),
        ("mountPath: /credentials", "mountPath: /tmp", "write-back: two paths are /tmp"),
        ("name: canary\n", "name: shadow\n", "rollout: two steps are shadow"),
        (
            r"name: rollback\n( +)retry",
            r"name: watch\n\1retry",
            "two templates are named watch",
        ),
    ],
)
def test_a_broken_reference_is_caught(old: str, new: str, problem: str) -> None:
    text = platform.to_yaml([TEMPLATE], "")
    planted, count = re.subn(old, new, text)
    assert count
    problems = broken_references(yaml.safe_load(planted))
    assert any(problem in each for each in problems), problems


@pytest.mark.parametrize("environment", ["staging", "production"])
def test_workflow_gives_the_templates_parameters(environment: str) -> None:
    path = MODEL / "argo" / "manifests" / environment / "release" / "workflow.yaml"
    workflow = yaml.safe_load(path.read_text())
    reference = workflow["spec"]["workflowTemplateRef"]
    assert reference == {"name": TEMPLATE["metadata"]["name"], "clusterScope": True}
    parameters = TEMPLATE["spec"]["arguments"]["parameters"]
    given = {p["name"] for p in workflow["spec"]["arguments"]["parameters"]}
    assert {p["name"] for p in parameters if "value" not in p} <= given
    assert given <= {p["name"] for p in parameters}


def test_template_is_named_by_the_version() -> None:
    assert re.fullmatch(r"modelyard-release-v\d+-\d+-\d+\S*", TEMPLATE["metadata"]["name"])


def test_pods_are_restricted() -> None:
    """Pod Security "restricted", for the steps of a release and for serving."""
    serving = next(d for _, d in ALL if d["kind"] == "Deployment")["spec"]["template"]["spec"]
    nodes = [t["container"] for t in TEMPLATE["spec"]["templates"] if "container" in t]
    for pod, containers in [(serving, serving["containers"]), (TEMPLATE["spec"], nodes)]:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in containers:
            assert container["securityContext"] == objects.RESTRICTED_CONTAINER
            assert "memory" in container["resources"]["limits"]


def test_argos_own_containers_are_restricted_and_bounded() -> None:
    """`init` and `wait`: a namespace takes a pod only if all of its containers are."""
    patch = yaml.safe_load(TEMPLATE["spec"]["podSpecPatch"])
    own = {c["name"]: c for kind in ("initContainers", "containers") for c in patch[kind]}
    assert set(own) == {"init", "wait"}
    nodes = [t["container"] for t in TEMPLATE["spec"]["templates"] if "container" in t]
    for container in [*own.values(), *nodes]:
        assert container["securityContext"] == objects.RESTRICTED_CONTAINER
        for bound in ("requests", "limits"):
            assert set(container["resources"][bound]) == {"cpu", "memory"}


def test_the_policy_object_asks_for_no_version() -> None:
    """A release PR changes nothing of it, and no other environment's policy is in it."""
    for name in ("staging", "production", "ramped"):
        folder = MODEL / "argo" / "manifests" / name
        data = yaml.safe_load((folder / "policy.yaml").read_text())["data"]
        policy = yaml.safe_load(data["release.yaml"])
        whole = yaml.safe_load((MODEL / "argo" / "release.yaml").read_text())
        assert policy["environments"] == {name: whole["environments"][name]}
        assert set(whole) - set(policy) == {"version", "digest"}
        assert data["template"] == TEMPLATE["metadata"]["name"]


def test_the_pods_of_a_release_may_call_and_are_not_called() -> None:
    """Where a namespace denies what is not allowed, a step reaches its cluster all the same."""
    path = MODEL / "argo" / "manifests" / "production" / "network-policy.yaml"
    policies = {d["metadata"]["name"]: d["spec"] for d in yaml.safe_load_all(path.read_text())}
    found = policies["modelyard-release"]
    labels = TEMPLATE["spec"]["podMetadata"]["labels"]
    assert found["podSelector"]["matchLabels"].items() <= labels.items()
    assert (found["ingress"], found["egress"]) == ([], [{}])
    serving = policies["flight-delay"]["podSelector"]["matchLabels"]
    assert not serving.items() <= labels.items()


def test_route_has_weights_and_mirror(target: Target) -> None:
    route = objects.http_route(target, stable=1, candidate=2, weight=25, mirror=True)
    check(route)
    rule = route["spec"]["rules"][0]
    weights = {b["name"]: b["weight"] for b in rule["backendRefs"]}
    assert weights == {"flight-delay-v1": 75, "flight-delay-v2": 25}
    mirrored = rule["filters"][0]["requestMirror"]["backendRef"]
    assert mirrored == {"name": "flight-delay-v2", "port": 80}


def test_envoy_gateway_counts_the_versions_apart() -> None:
    """It gives a backend a cluster of its own only if the backend has a filter."""
    folders = [MODEL / "argo" / "manifests" / name for name in ("staging", "production")]
    routes = [yaml.safe_load((f / "release" / "http-route.yaml").read_text()) for f in folders]
    staging, production = (route["spec"]["rules"][0]["backendRefs"][0] for route in routes)
    assert "filters" not in staging
    assert production["filters"] == [
        {
            "type": "ResponseHeaderModifier",
            "responseHeaderModifier": {"set": [{"name": "x-model-version", "value": "2"}]},
        }
    ]


def test_who_is_let_in_and_what_is_monitored_are_settings() -> None:
    def rendered(environment: str, name: str) -> dict[str, Any]:
        text = (MODEL / "argo/manifests" / environment / name).read_text()
        return next(yaml.safe_load_all(text))

    def namespaced(name: str) -> dict[str, Any]:
        return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}

    ingress = rendered("production", "network-policy.yaml")["spec"]["ingress"]
    assert ingress[0]["from"] == [
        namespaced("edge-proxies"),
        {"ipBlock": {"cidr": "10.20.0.0/16"}},
        namespaced("observability"),
    ]
    labels = rendered("production", "pod-monitor.yaml")["metadata"]["labels"]
    assert labels["team"] == "models" and "release" not in labels

    ingress = rendered("staging", "network-policy.yaml")["spec"]["ingress"]
    assert ingress[0]["from"] == [namespaced("envoy-gateway-system"), namespaced("monitoring")]
    labels = rendered("staging", "pod-monitor.yaml")["metadata"]["labels"]
    assert labels["release"] == "kube-prometheus-stack"


def test_the_probes_route_is_narrower_than_the_users(target: Target) -> None:
    """One path, for whoever knows the token, to one version; the users' route is not touched."""
    probe = objects.probe_route(target, 2, "s3cret")
    check(probe)
    users = objects.http_route(target, stable=1)
    assert probe["metadata"]["name"] != users["metadata"]["name"]
    for key in ("parentRefs", "hostnames"):
        assert probe["spec"][key] == users["spec"][key]
    rule = probe["spec"]["rules"][0]
    assert rule["backendRefs"] == [{"name": "flight-delay-v2", "port": 80}]
    assert rule["matches"] == [
        {
            "path": {"type": "Exact", "value": "/model"},
            "headers": [{"name": "x-modelyard-probe", "value": "s3cret"}],
        }
    ]


def test_what_moves_in_a_release_has_one_writer(target: Target) -> None:
    def identities(files: dict[str, list[dict[str, Any]]]) -> set[tuple[str, str]]:
        return {(o["kind"], o["metadata"]["name"]) for each in files.values() for o in each}

    base, released = objects.base(target), objects.released(target)
    assert not identities(base) & identities(released)
    assert "v2" not in str(base)  # a release PR changes nothing that the team applies


def render(repo: Path, *options: str) -> Done:
    return modelyard(repo, "render", *options)


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    (tmp_path / "argo").mkdir()
    for path in ("pyproject.toml", "argo/release.yaml"):
        (tmp_path / path).write_text((MODEL / path).read_text())
    return tmp_path


def test_render_check_names_what_is_stale(repo: Path) -> None:
    rendered = repo / "argo" / "manifests"
    assert "missing" in render(repo, "--check").stderr
    assert not rendered.exists()
    assert render(repo).returncode == 0
    assert render(repo, "--check").returncode == 0

    own = rendered / "production" / "kustomization.yaml"
    own.write_text("resources: [access.yaml]\n")
    policy = repo / "argo" / "release.yaml"
    policy.write_text(policy.read_text().replace("version: 2", "version: 3"))
    stale = render(repo, "--check")
    assert stale.returncode == 1
    assert "production/release/deployment.yaml: +" in stale.stderr
    assert "flight-delay-v3" in stale.stderr
    assert "access.yaml" not in stale.stderr and "Traceback" not in stale.stderr

    policy.write_text(policy.read_text().replace("version: 3", "version: 2"))
    policy.write_text(policy.read_text().replace("replicas: 1", "replicas: 2"))
    stale = render(repo, "--check")
    assert "staging/release/autoscaler.yaml" in stale.stderr and "production" not in stale.stderr

    left = rendered / "production" / "release" / "old.yaml"
    left.write_text((rendered / "production" / "access.yaml").read_text())
    assert "old.yaml: not rendered any more" in render(repo, "--check").stderr
    assert render(repo).returncode == 0
    assert own.exists() and not left.exists()
    assert render(repo, "--check").returncode == 0


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--env", "local"], "no Kubernetes environment 'local' to render; it has staging"),
        (["--env", "prod"], "no Kubernetes environment 'prod'"),
    ],
)
def test_render_of_no_such_environment(repo: Path, option: list[str], message: str) -> None:
    done = render(repo, *option)
    assert (done.returncode, message in done.stderr) == (1, True), done.stderr


def test_render_outside_of_a_model_repo(tmp_path: Path) -> None:
    done = render(tmp_path)
    assert done.returncode == 1 and "argo/release.yaml" in done.stderr
    assert "Traceback" not in done.stderr
