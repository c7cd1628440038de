"""What an administrator installs: DNS, Argo Workflows, Envoy Gateway, Prometheus, metrics-server.

From what each project publishes in its own module, with our images in it.
"""

from collections.abc import Iterable
from pathlib import Path
from string import Template
from typing import Any

import yaml
from cluster.node import images
from cluster.node.node import DNS, REGISTRY, Node
from cluster.node.programs import BY_NAME, CommandFailed, command, module_folder, timed, tools

Manifest = dict[str, Any]
MANIFESTS = Path(__file__).with_name("manifests")
GATEWAY, MONITORING, ARGO = "envoy-gateway-system", "monitoring", "argo"


def install(node: Node) -> None:
    """Apply all of it, and wait until it works."""
    images.build_all()
    with timed("add-ons"):
        namespaces = [
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
            for name in (GATEWAY, MONITORING, ARGO)
        ]
        definitions, others = [], [*namespaces, *_own("dns", coredns="coredns")]
        published = [*_argo(), *_envoy_gateway(), *_operator(), *_metrics_server()]
        for each in published:
            (definitions if each["kind"] == "CustomResourceDefinition" else others).append(each)
        _apply(node, definitions)
        names = [f"crd/{each['metadata']['name']}" for each in definitions]
        _kubectl(node, "wait", "--for=condition=Established", "--timeout=60s", *names)
        _apply(node, others)
        _apply(node, _own("gateway", envoy="envoy"))
        _apply(node, _own("prometheus", prometheus="prometheus"))
        _wait(node)


def _wait(node: Node) -> None:
    for namespace in ("kube-system", GATEWAY, MONITORING, ARGO):
        _kubectl(
            node, "wait", "deployment", "--all", "--for=condition=Available",
            "--namespace", namespace, "--timeout=180s",
        )  # fmt: skip
    waits = [
        ("gateway/gateway", "gateway-system", "Programmed"),
        ("prometheus/kube-prometheus-stack-prometheus", MONITORING, "Available"),
    ]
    for name, namespace, condition in waits:
        _kubectl(
            node, "wait", name, f"--for=condition={condition}", "--namespace", namespace,
            "--timeout=180s",
        )  # fmt: skip
    _kubectl(node, "wait", "apiservice/v1beta1.metrics.k8s.io", "--for=condition=Available",
             "--timeout=120s")  # fmt: skip


def _own(name: str, **programs: str) -> list[Manifest]:
    given = {key: images.reference(program) for key, program in programs.items()}
    given |= {"dns": DNS, "registry": f"localhost:{REGISTRY}"}
    return _documents(Template((MANIFESTS / f"{name}.yaml").read_text()).substitute(given))


def _argo() -> list[Manifest]:
    """Its controller; no server, which the tests do not need."""
    folder = module_folder(BY_NAME["argo"]) / "manifests" / "cluster-install"
    kept = []
    for each in _documents(command(tools() / "kubectl", "kustomize", folder)):
        name = each["metadata"]["name"]
        if name.startswith("argo-server"):
            continue
        if each["kind"] not in _CLUSTER_WIDE:
            each["metadata"].setdefault("namespace", ARGO)
        for subject in each.get("subjects", []):
            subject["namespace"] = ARGO
        if each["kind"] == "Deployment":
            container = each["spec"]["template"]["spec"]["containers"][0]
            container["image"] = images.reference("workflow-controller")
            container["args"] = ["--executor-image", images.reference("argoexec")]
            # One replica: there is no lease to lose on a machine that is busy.
            container["env"].append({"name": "LEADER_ELECTION_DISABLE", "value": "true"})
            # Else the next node of a workflow waits for ten seconds.
            container["env"].append({"name": "DEFAULT_REQUEUE_TIME", "value": "1s"})
            each["spec"]["template"]["spec"]["securityContext"]["runAsUser"] = 65532
        if each["kind"] == "ConfigMap":
            # Teams run workflows that refer to a template, and no others.
            restrictions = {"templateReferencing": "Strict"}
            each["data"] = {"workflowRestrictions": yaml.safe_dump(restrictions)}
        kept.append(each)
    return kept


_CLUSTER_WIDE = {
    "CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding", "PriorityClass",
}  # fmt: skip


def _envoy_gateway() -> list[Manifest]:
    charts = module_folder(BY_NAME["envoy-gateway"]) / "charts"
    helm = (tools() / "helm", "template", "eg", "--namespace", GATEWAY)
    image = images.reference("envoy-gateway")
    definitions = command(
        *helm, charts / "gateway-crds-helm", "--set", "crds.gatewayAPI.enabled=true",
        "--set", "crds.gatewayAPI.channel=standard", "--set", "crds.envoyGateway.enabled=true",
    )  # fmt: skip
    rest = command(
        *helm, charts / "gateway-helm", "--values", charts / "gateway-helm" / "values.tmpl.yaml",
        "--set", "crds.enabled=false", "--set", f"global.images.envoyGateway.image={image}",
        "--set", "global.images.envoyGateway.pullPolicy=IfNotPresent",
        "--set", "config.envoyGateway.provider.kubernetes.leaderElection.disable=true",
    )  # fmt: skip
    return _documents(definitions) + _documents(rest)


def _operator() -> list[Manifest]:
    examples = module_folder(BY_NAME["prometheus-operator"]) / "example"
    files = sorted((examples / "prometheus-operator-crd").glob("*.yaml"))
    role = examples / "rbac" / "prometheus-operator"
    names = ("service-account", "cluster-role", "cluster-role-binding", "deployment")
    files += [role / f"prometheus-operator-{name}.yaml" for name in names]
    manifests = [each for file in files for each in _documents(file.read_text())]
    for each in manifests:
        if each["metadata"].get("namespace"):
            each["metadata"]["namespace"] = MONITORING
        for subject in each.get("subjects", []):
            subject["namespace"] = MONITORING
        if each["kind"] == "Deployment":
            container = each["spec"]["template"]["spec"]["containers"][0]
            container["image"] = images.reference("operator")
            reloader = images.reference("prometheus-config-reloader")
            kept = [a for a in container["args"] if "config-reloader" not in a]
            container["args"] = [*kept, f"--prometheus-config-reloader={reloader}"]
    return manifests


def _metrics_server() -> list[Manifest]:
    folder = module_folder(BY_NAME["metrics-server"]) / "manifests" / "base"
    manifests = _documents(command(tools() / "kubectl", "kustomize", folder))
    for each in manifests:
        if each["kind"] == "Deployment":
            container = each["spec"]["template"]["spec"]["containers"][0]
            container["image"] = images.reference("metrics-server")
            fast = ["--metric-resolution=10s", "--kubelet-request-timeout=5s"]
            kept = [a for a in container["args"] if "--metric-resolution" not in a]
            container["args"] = [*kept, "--kubelet-insecure-tls", *fast]
            container["readinessProbe"] |= {"initialDelaySeconds": 0, "periodSeconds": 2}
    return manifests


def _documents(text: str) -> list[Manifest]:
    return [each for each in yaml.load_all(text, _Loader) if each]


class _Loader(yaml.CSafeLoader):
    """A plain `=` is a word in YAML 1.2, and in a definition of the operator's."""


_Loader.add_constructor("tag:yaml.org,2002:value", yaml.SafeLoader.construct_yaml_str)


def _apply(node: Node, manifests: Iterable[Manifest]) -> None:
    text = yaml.dump_all(manifests, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper))
    for more in (2, 1, 0):  # on a machine that is busy, a large definition takes its minute
        try:
            _kubectl(node, "apply", "--server-side", "--force-conflicts", "-f", "-", given=text)
            return
        except CommandFailed as error:
            if not more or "imeout" not in str(error):
                raise


def _kubectl(node: Node, *arguments: str, given: str | None = None) -> str:
    kubectl = (tools() / "kubectl", "--kubeconfig", node.kubeconfig)
    return command(*kubectl, *arguments, input=given)
