"""A cluster as tests use it: their own node's, or one of a person's own."""

import functools
import json
import os
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from benchmarks.serving import image as bento_image
from cluster.node import images, requirements
from cluster.node.node import GIT, GIT_TOKEN, IP, PASSWORD, USER, Node
from cluster.node.programs import CommandFailed, command, tools

Manifest = dict[str, Any]
GATEWAY = "gateway-system/gateway"
GATEWAY_NAMESPACE = "envoy-gateway-system"
PROMETHEUS = "http://kube-prometheus-stack-prometheus.monitoring.svc:9090"
PULL_SECRET = "registry"
_PROMETHEUS_API = (
    "/api/v1/namespaces/monitoring/services/kube-prometheus-stack-prometheus:9090/proxy/api/v1"
)


class Cluster:
    """One cluster.

    `node` is there where it is our own, and where, therefore, what is below Kubernetes may be
    stopped and started. `registry` is where images of models are pushed to and pulled from.
    """

    def __init__(self, kubeconfig: Path, node: Node | None) -> None:
        self.kubeconfig, self.node = kubeconfig, node
        hosting = self.get("configmap", "local-registry-hosting", "kube-public")
        told = yaml.safe_load(hosting["data"]["localRegistryHosting.v1"]) if hosting else {}
        self.registry: str = told.get("host", "")
        self.credentials = images.docker_config() if node else ""
        """of the registry, as a pull secret has them; empty where it asks for none"""

    # Objects

    def kubectl(self, *arguments: str | Path, given: str | None = None) -> str:
        """What kubectl printed.

        Raises:
            CommandFailed: it failed; the message is what it printed.
        """
        return command("kubectl", *arguments, input=given, env=self.environment)

    @property
    def environment(self) -> dict[str, str]:
        """Variables for commands of the guides: `kubectl` and KUBECONFIG are the cluster's."""
        path = os.environ["PATH"]
        if self.node:
            path = f"{tools()}:{path}"
        return {**os.environ, "PATH": path, "KUBECONFIG": str(self.kubeconfig)}

    def apply(self, *manifests: Manifest | str, namespace: str = "") -> None:
        """Server-side apply, as an administrator does."""
        texts = [each if isinstance(each, str) else yaml.safe_dump(each) for each in manifests]
        place = ("--namespace", namespace) if namespace else ()
        self.kubectl(
            "apply", "--server-side", "--force-conflicts", *place, "-f", "-",
            given="\n---\n".join(texts),
        )  # fmt: skip

    def get(self, kind: str, name: str, namespace: str = "") -> Manifest | None:
        """An object; none where it is not there."""
        place = ("--namespace", namespace) if namespace else ()
        found = self.kubectl("get", kind, name, *place, "--ignore-not-found", "-o", "json")
        return json.loads(found) if found else None

    def custom(self, resource: str, name: str, namespace: str) -> Manifest | None:
        """As `get`, of a resource such as `workflows.argoproj.io/v1alpha1`, for what is asked
        often: kubectl takes a fifth of a second of a CPU.

        Raises:
            CommandFailed: there is no answer.
        """
        from kubernetes import client
        from urllib3.exceptions import HTTPError

        plural, _, group = resource.partition(".")
        group, _, version = group.partition("/")
        try:
            custom: Any = client.CustomObjectsApi(self._client)
            return custom.get_namespaced_custom_object(
                group, version, namespace, plural, name, _request_timeout=10
            )
        except client.ApiException as error:
            if error.status == 404:
                return None
            raise CommandFailed(str(error)) from None
        except HTTPError as error:
            raise CommandFailed(str(error)) from None

    @functools.cached_property
    def _client(self) -> Any:
        from kubernetes import config

        return config.new_client_from_config(str(self.kubeconfig))

    def objects(self, kind: str, namespace: str, labels: str = "") -> list[Manifest]:
        found = self.kubectl("get", kind, "--namespace", namespace, "-l", labels, "-o", "json")
        return json.loads(found)["items"]

    # A namespace of a model, as a careful administrator makes one

    def make_namespace(self, name: str) -> None:
        """Restricted pods, all traffic denied, a quota, a LimitRange, and a pull secret."""
        self.apply(*_namespace(name))
        if self.credentials:
            self.apply(_pull_secret(name, self.credentials))
            self.eventually(lambda: self.get("serviceaccount", "default", name))
            self.give_pull_secret(name, "default")

    def give_pull_secret(self, namespace: str, *accounts: str) -> None:
        """Let pods of these ServiceAccounts pull from the models' registry."""
        if self.credentials:
            patch = json.dumps({"imagePullSecrets": [{"name": PULL_SECRET}]})
            for each in accounts:
                self.kubectl("patch", "serviceaccount", each, "-n", namespace, "-p", patch)

    def delete_namespace(self, name: str) -> None:
        self.kubectl("delete", "namespace", name, "--wait=false", "--ignore-not-found")

    # Images and Git

    def push(self, tag: str, name: str) -> str:
        """Push an image that buildah (or docker) has, as `name`; its reference by digest."""
        user, password = (USER, PASSWORD) if self.credentials else ("", "")
        version = tag.rpartition(":")[2] if ":" in tag.rpartition("/")[2] else "latest"
        place = f"{self.registry}/{name}"
        return f"{place}@{bento_image.push(tag, f'{place}:{version}', user, password)}"

    @property
    def python(self) -> str:
        """An image with Python and a shell, that may be pulled by anybody."""
        return images.reference("python") if self.node else "python:3.11-slim"

    def git(self, name: str) -> tuple[Path, str, str]:
        """A bare repository on the node: its folder, its URL for pods and people, its token."""
        self.own("a git server on the node")
        assert self.node
        folder = self.node.home / "git" / f"{name}.git"
        if not folder.exists():
            command("git", "init", "--quiet", "--bare", "--initial-branch=main", folder)
            command("git", "-C", folder, "config", "http.receivepack", "true")
        return folder, f"http://{IP}:{GIT}/{name}.git", GIT_TOKEN

    # What it does

    def prometheus(self, query: str) -> list[dict[str, Any]]:
        """The result of a PromQL query, now."""
        from urllib.parse import quote

        path = f"{_PROMETHEUS_API}/query?query={quote(query, safe='')}"
        return json.loads(self.kubectl("get", "--raw", path))["data"]["result"]

    @contextmanager
    def gateway(self) -> Iterator[str]:
        """The URL of the Gateway for this machine; requests need their model's Host."""
        namespace, name = GATEWAY.split("/")
        labels = (
            f"gateway.envoyproxy.io/owning-gateway-name={name},"
            f"gateway.envoyproxy.io/owning-gateway-namespace={namespace}"
        )
        service = self.objects("service", GATEWAY_NAMESPACE, labels)[0]
        if self.node:
            yield f"http://{service['spec']['clusterIP']}"
            return
        with self._forwarded(GATEWAY_NAMESPACE, service["metadata"]["name"], 80) as url:
            yield url

    @contextmanager
    def _forwarded(self, namespace: str, service: str, port: int) -> Iterator[str]:
        words = ["kubectl", "port-forward", "-n", namespace, f"service/{service}", f":{port}"]
        process = subprocess.Popen(words, env=self.environment, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout
            line = process.stdout.readline()  # Forwarding from 127.0.0.1:40123 -> 10080
            yield f"http://{line.split()[2]}"
        finally:
            process.terminate()
            process.wait(10)

    def run_pod(self, namespace: str, *words: str, **spec: Any) -> str:
        """What a command printed in a pod of its own, as an unprivileged user.

        Raises:
            CommandFailed: the pod was refused, or the command exited with another code than 0.
        """
        name = f"run-{uuid.uuid4().hex[:6]}"
        self.apply(pod(name, namespace, self.python, words, **spec))
        try:
            self.eventually(lambda: self._phase(namespace, name) in ("Succeeded", "Failed"))
            printed = self.kubectl("logs", "-n", namespace, name)
            if self._phase(namespace, name) == "Failed":
                raise CommandFailed(printed)
            return printed
        finally:
            self.kubectl("delete", "pod", name, "-n", namespace, "--wait=false")

    def _phase(self, namespace: str, name: str) -> str:
        found = self.get("pod", name, namespace)
        return found["status"].get("phase", "") if found else ""

    # Faults, on our own node only

    def own(self, why: str) -> None:
        """Skip the test where the cluster is not our own node."""
        import pytest

        if self.node is None:
            pytest.skip(f"{why}: on a node of the tests' own only, which this cluster is not")

    @contextmanager
    def gone(self, *names: str) -> Iterator[None]:
        """Without these processes for a while, ended by SIGKILL: `apiserver`, `registry`,
        `platform-registry`, `git`, `scheduler`, `controllers`, `kubelet`, `firewall`, `etcd`.
        """
        self.own(f"without {' and '.join(names)}")
        assert self.node
        processes = self.node.processes
        for name in names:
            processes.stop(name, signal.SIGKILL)
        try:
            yield
        finally:
            for name in names:
                processes.start_again(name)
            if {"apiserver", "etcd"} & set(names):
                self.eventually(self.node.answers)

    @contextmanager
    def prometheus_gone(self) -> Iterator[None]:
        """Without a Prometheus, whose data are lost with its pod."""
        name = "prometheus/kube-prometheus-stack-prometheus"
        self._scale_prometheus(name, 0)
        try:
            yield
        finally:
            self._scale_prometheus(name, 1)
            self.kubectl(
                "wait", name, "-n", "monitoring", "--for=condition=Available", "--timeout=120s"
            )

    def _scale_prometheus(self, name: str, replicas: int) -> None:
        patch = json.dumps({"spec": {"replicas": replicas}})
        self.kubectl("patch", name, "-n", "monitoring", "--type=merge", "-p", patch)
        self.eventually(
            lambda: (
                len(self.objects("pods", "monitoring", "app.kubernetes.io/name=prometheus"))
                == replicas
            )
        )

    def restart_argo(self) -> None:
        """Kill Argo's controller and wait for the next.

        Version 4.0.5 needs that after the API server was gone: its watch of its own ConfigMap
        spins from then on, with 26,000 lines a second in its log.
        """
        self.kubectl("delete", "pod", "-n", "argo", "-l", "app=workflow-controller", "--force")
        self.kubectl(
            "rollout", "status", "deployment/workflow-controller", "-n", "argo", "--timeout=120s"
        )

    def kill(self, namespace: str, pod: str, container: str = "main") -> None:
        """`kill -9` for a container's first process, from outside of the pod."""
        self.own("kill -9 in a pod")
        assert self.node
        found = self.get("pod", pod, namespace)
        assert found is not None, pod
        status = next(
            each for each in found["status"]["containerStatuses"] if each["name"] == container
        )
        identity = status["containerID"].rpartition("/")[2]
        os.kill(self.node.pid(identity), signal.SIGKILL)

    def eventually(self, look: Callable[[], Any], seconds: float = 120) -> Any:
        """What `look` gives once it gives something; a refusal counts as nothing yet."""
        end = time.monotonic() + seconds
        while True:
            problem = ""
            try:
                if found := look():
                    return found
            except CommandFailed as error:
                problem = str(error)
            assert time.monotonic() < end, f"not within {seconds:.0f} s: {problem or look}"
            time.sleep(1)


def connect() -> Cluster | str:
    """The cluster for tests; or one line that says why there is none."""
    given = os.environ.get(requirements.KUBECONFIG)
    node = Node()
    if given:
        own = node if Path(given).resolve() == node.kubeconfig and node.runs() else None
        if own is None and shutil.which("kubectl") is None:
            return "needs kubectl"
        return Cluster(Path(given), own)
    if lacks := requirements.missing():
        return lacks
    if not node.runs():
        return "no node runs: `make test-cluster`, or `python -m cluster.node up` first"
    return Cluster(node.kubeconfig, node)


def pod(name: str, namespace: str, image: str, words: tuple[str, ...], **spec: Any) -> Manifest:
    """A pod that a restricted namespace takes."""
    labels = spec.pop("labels", {})
    container = {
        "name": "main",
        "image": image,
        "command": list(words),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}},
    } | spec.pop("container", {})
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
        }
        | spec,
    }


def _namespace(name: str) -> list[Manifest]:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    metadata = {"namespace": name}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}},
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": metadata | {"name": "default-deny"},
            "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]},
        },
        {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": metadata | {"name": "quota"},
            "spec": {
                "hard": {
                    "pods": "20", "requests.cpu": "2", "requests.memory": "8Gi",
                    "limits.cpu": "20", "limits.memory": "16Gi",
                },
            },
        },
        {
            "apiVersion": "v1",
            "kind": "LimitRange",
            "metadata": metadata | {"name": "limits"},
            "spec": {
                "limits": [
                    {
                        "type": "Container",
                        "defaultRequest": {"cpu": "10m", "memory": "64Mi"},
                        "default": {"cpu": "1", "memory": "512Mi"},
                    },
                ],
            },
        },
    ]  # fmt: skip


def _pull_secret(namespace: str, credentials: str) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": PULL_SECRET, "namespace": namespace},
        "type": "kubernetes.io/dockerconfigjson",
        "stringData": {".dockerconfigjson": credentials},
    }
