"""The cluster does what tests of releases rely on: it runs, refuses, enforces and counts."""

import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from cluster.cluster import Cluster, Manifest, pod
from cluster.node.programs import CommandFailed

SERVE = ("python3", "-m", "http.server", "8080", "--bind", "0.0.0.0", "--directory", "/tmp")
COUNT = """
from http.server import BaseHTTPRequestHandler, HTTPServer
class Metrics(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("content-type", "text/plain; version=0.0.4")
        self.end_headers()
        self.wfile.write(b"tests_answer 42\\n")
HTTPServer(("", 8080), Metrics).serve_forever()
"""
BURN = "while True: pass"
Make = Callable[[str], str]


def fetch(address: str, seconds: int = 3) -> tuple[str, ...]:
    opened = f"urllib.request.urlopen('http://{address}', timeout={seconds})"
    code = f"import urllib.request; print({opened}.status)"
    return "python3", "-c", code


def ready(cluster: Cluster, namespace: str, name: str) -> str:
    """The address of a pod, once it is ready."""
    cluster.kubectl("wait", "pod", name, "-n", namespace, "--for=condition=Ready", "--timeout=120s")
    found = cluster.get("pod", name, namespace)
    assert found is not None
    return found["status"]["podIP"]


def server(cluster: Cluster, namespace: str, name: str, *words: str, **spec: Any) -> Manifest:
    probe = {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1}
    ports = [{"name": "http", "containerPort": 8080}]
    container = {"readinessProbe": probe, "ports": ports}
    return pod(name, namespace, cluster.python, words or SERVE, container=container, **spec)


def policy(namespace: str, name: str, **spec: Any) -> Manifest:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"podSelector": {}} | spec,
    }


def allow_dns(namespace: str) -> Manifest:
    to = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}}
    return policy(namespace, "dns", policyTypes=["Egress"], egress=[{"to": [to]}])


def test_its_nodes_are_ready(cluster: Cluster) -> None:
    cluster.kubectl("wait", "node", "--all", "--for=condition=Ready", "--timeout=10s")


def test_names_are_found(cluster: Cluster, model_namespace: Make) -> None:
    namespace = model_namespace("names")
    cluster.apply(allow_dns(namespace))
    code = "import socket; print(socket.gethostbyname('kubernetes.default.svc.cluster.local'))"
    service = cluster.get("service", "kubernetes", "default")
    assert service is not None
    printed = cluster.run_pod(namespace, "python3", "-c", code)
    assert printed.strip() == service["spec"]["clusterIP"]


def test_a_restricted_namespace_refuses_a_privileged_pod(
    cluster: Cluster, model_namespace: Make
) -> None:
    namespace = model_namespace("restricted")
    privileged = {"securityContext": {"privileged": True}}
    with pytest.raises(CommandFailed, match='violates PodSecurity "restricted'):
        cluster.apply(pod("root", namespace, cluster.python, ("true",), container=privileged))
    assert cluster.get("pod", "root", namespace) is None


def test_a_quota_is_a_bound(cluster: Cluster, model_namespace: Make) -> None:
    namespace = model_namespace("quota")
    greedy = {"resources": {"requests": {"cpu": "3"}, "limits": {"cpu": "3"}}}
    with pytest.raises(CommandFailed, match="exceeded quota"):
        cluster.apply(pod("greedy", namespace, cluster.python, ("true",), container=greedy))


def test_denied_traffic_does_not_pass_until_a_policy_lets_it(
    cluster: Cluster, model_namespace: Make
) -> None:
    namespace = model_namespace("denied")
    cluster.apply(server(cluster, namespace, "server", labels={"app": "server"}))
    address = f"{ready(cluster, namespace, 'server')}:8080"
    with pytest.raises(CommandFailed, match="timed out|refused"):
        cluster.run_pod(namespace, *fetch(address))
    allowed = [{"podSelector": {"matchLabels": {"app": "server"}}}]
    out = policy(namespace, "out", policyTypes=["Egress"], egress=[{"to": allowed}])
    cluster.apply(out)
    with pytest.raises(CommandFailed, match="timed out|refused"):
        cluster.run_pod(namespace, *fetch(address))
    into = {"policyTypes": ["Ingress"], "ingress": [{"from": [{"podSelector": {}}]}]}
    cluster.apply(policy(namespace, "in", **into))
    # A new pod is known to the firewall only a little after its start.
    assert cluster.run_pod(namespace, *patient(address)).strip() == "200"


def patient(address: str) -> tuple[str, ...]:
    code = f"""
import time, urllib.request
for left in range(30, -1, -1):
    try:
        print(urllib.request.urlopen("http://{address}", timeout=2).status)
        break
    except OSError:
        assert left
        time.sleep(1)
"""
    return "python3", "-c", code


def test_prometheus_scrapes_what_has_its_label(cluster: Cluster, model_namespace: Make) -> None:
    namespace = model_namespace("scraped")
    cluster.apply(policy(namespace, "in", policyTypes=["Ingress"], ingress=[{}]))
    for name in ("seen", "unseen"):
        labels = {"app": name}
        monitor = {"release": "kube-prometheus-stack"} if name == "seen" else {}
        cluster.apply(
            server(cluster, namespace, name, "python3", "-c", COUNT, labels=labels),
            {
                "apiVersion": "monitoring.coreos.com/v1",
                "kind": "PodMonitor",
                "metadata": {"name": name, "namespace": namespace, "labels": monitor},
                "spec": {
                    "selector": {"matchLabels": labels},
                    "podMetricsEndpoints": [{"port": "http", "interval": "2s"}],
                },
            },
        )
        ready(cluster, namespace, name)
    query = f'tests_answer{{namespace="{namespace}"}}'
    found = cluster.eventually(lambda: cluster.prometheus(query))
    assert [(each["metric"]["pod"], each["value"][1]) for each in found] == [("seen", "42")]
    time.sleep(5)
    assert len(cluster.prometheus(query)) == 1


def test_prometheus_scrapes_the_gateways_envoys(cluster: Cluster) -> None:
    query = 'up{namespace="envoy-gateway-system"} == 1'
    assert cluster.eventually(lambda: cluster.prometheus(query))
    assert cluster.eventually(lambda: cluster.prometheus("envoy_server_live"))


def test_an_autoscaler_sees_what_pods_use(cluster: Cluster, model_namespace: Make) -> None:
    namespace = model_namespace("scaled")
    labels = {"app": "busy"}
    template = pod("busy", namespace, cluster.python, ("python3", "-c", BURN))
    container = template["spec"]["containers"][0]
    container["resources"] = {"requests": {"cpu": "20m"}, "limits": {"cpu": "100m"}}
    template["spec"]["restartPolicy"] = "Always"
    scaled = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "busy"}
    target = {"type": "Utilization", "averageUtilization": 50}
    cluster.apply(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "busy", "namespace": namespace},
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": template["spec"]},
            },
        },
        {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "busy", "namespace": namespace},
            "spec": {
                "scaleTargetRef": scaled,
                "minReplicas": 1,
                "maxReplicas": 2,
                "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}],
            },
        },
    )

    def scaled_up() -> bool:
        found = cluster.get("deployment", "busy", namespace)
        return found is not None and found["spec"]["replicas"] == 2

    cluster.eventually(scaled_up, 240)


def test_the_models_registry_wants_credentials(
    cluster: Cluster, model_namespace: Make, tmp_path: Any
) -> None:
    if not cluster.credentials:
        pytest.skip("the registry of this cluster asks for no credentials")
    namespace = model_namespace("pulled")
    image = cluster.push("localhost/debian-python:3.11", "tests/python")
    account = {"kind": "ServiceAccount", "apiVersion": "v1"}
    cluster.apply(account | {"metadata": {"name": "stranger", "namespace": namespace}})
    spec = {"serviceAccountName": "stranger", "automountServiceAccountToken": False}
    cluster.apply(pod("pulls", namespace, image, ("true",), **spec))

    def refusal() -> str:
        found = cluster.get("pod", "pulls", namespace) or {}
        for each in found["status"].get("containerStatuses", []):
            waiting = each["state"].get("waiting", {})
            if waiting.get("reason") in ("ErrImagePull", "ImagePullBackOff"):
                return waiting.get("message", "")
        return ""

    assert "authorization failed" in cluster.eventually(refusal)
    cluster.kubectl("delete", "pod", "pulls", "-n", namespace)
    cluster.give_pull_secret(namespace, "stranger")
    cluster.apply(pod("pulls", namespace, image, ("true",), **spec))
    cluster.kubectl(
        "wait", "pod", "pulls", "-n", namespace, "--for=jsonpath={.status.phase}=Succeeded",
        "--timeout=60s",
    )  # fmt: skip


def test_argo_runs_referred_templates_only(cluster: Cluster, model_namespace: Make) -> None:
    namespace = model_namespace("strict")
    container = {"image": cluster.python, "command": ["true"]}
    workflow = {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "metadata": {"name": "own", "namespace": namespace},
        "spec": {"entrypoint": "main", "templates": [{"name": "main", "container": container}]},
    }
    cluster.apply(workflow)

    def ended() -> Manifest | None:
        found = cluster.get("workflow", "own", namespace) or {}
        status = found.get("status", {})
        return status if status.get("phase") == "Error" else None

    assert "workflowTemplateRef" in cluster.eventually(ended)["message"]


def test_a_killed_process_is_seen(cluster: Cluster, model_namespace: Make) -> None:
    namespace = model_namespace("killed")
    cluster.apply(server(cluster, namespace, "server"))
    ready(cluster, namespace, "server")
    cluster.kill(namespace, "server")

    def code() -> int:
        found = cluster.get("pod", "server", namespace) or {}
        state = found["status"]["containerStatuses"][0]["state"]
        return state.get("terminated", {}).get("exitCode", 0)

    assert cluster.eventually(code) == 137


def test_a_git_server_takes_a_push_with_a_token(cluster: Cluster) -> None:
    _, url, token = cluster.git("tests")
    refs = f"{url}/info/refs?service=git-upload-pack"
    assert httpx.get(refs).status_code == 401
    assert httpx.get(refs, auth=("x-access-token", token)).status_code == 200
