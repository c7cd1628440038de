"""The Kubernetes objects of one model in one environment, as plain dicts.

Pure functions of a `Target`. `modelyard render` writes them as YAML, and the release
applies the ones that come and go with a version (`released`) with the very same
functions. What a team or its continuous delivery applies (`base`) no release touches:
each object has one writer.

Each version has a Deployment and a Service of its own, so a promotion only moves the
weights of the HTTPRoute and starts no pod again, and a rollback finds the stable pods
as they were.
"""

from dataclasses import dataclass, field
from typing import Any

import yaml

from modelyard.delivery.policy import SCRAPE_S, is_range
from modelyard.documents.http import (
    LIVENESS_ROUTE,
    METRICS_ROUTE,
    MODEL_ROUTE,
    READINESS_ROUTE,
    VERSION_HEADER,
)
from modelyard.documents.version import versioned_name

Manifest = dict[str, Any]

PORT = 3000
SERVING_UID = 1034  # the user of the images that `bentoml containerize` makes
FIELD_MANAGER = "modelyard-release"
RELEASE = "modelyard-release"
"""of a release's account, its binding, its lock and its policy: one model a namespace"""
GIT_SECRET = "modelyard-git"
"""credentials for the write-back"""
RELEASE_PODS = {
    "app.kubernetes.io/managed-by": "modelyard",
    "app.kubernetes.io/component": "release",
}
"""labels of the pods of a workflow"""
PROBE_HEADER = "x-modelyard-probe"
PROBE_PATH = MODEL_ROUTE  # the server's only route that costs nothing and tells its version

# Pod Security "restricted": https://kubernetes.io/docs/concepts/security/pod-security-standards/
RESTRICTED_CONTAINER: Manifest = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}


@dataclass(frozen=True, kw_only=True)
class Target:
    """All that the manifests of one model in one environment depend on."""

    model: str
    environment: str
    namespace: str
    image: str
    """image repository, without a tag"""
    version: int
    """the desired version"""
    digest: str | None = None
    """of the desired version's image"""
    host: str
    """that users ask for"""
    gateway: str
    """namespace/name of the Gateway that the HTTPRoute hangs on"""
    gateway_url: str | None = None
    """that a release's own request goes to; None: as the Gateway says"""
    proxies: tuple[str, ...] = ("envoy-gateway-system",)
    """namespaces and ranges of addresses of the Gateway's proxies"""
    prometheus: str
    """URL"""
    scrapers: tuple[str, ...] = ("monitoring",)
    """namespaces and ranges of addresses that Prometheus scrapes from"""
    monitor_labels: dict[str, str] = field(default_factory=dict)
    """by which Prometheus' operator selects PodMonitors"""
    cluster_a_backend: bool = False
    """whether the Gateway's Envoy is to count the versions apart"""
    replicas: int = 2
    max_replicas: int = 10
    cpu: str = "500m"
    memory: str = "1Gi"

    def name(self, version: int) -> str:
        return f"{self.model}-v{version}"

    @property
    def probe(self) -> str:
        """Name of the HTTPRoute for a release's own requests."""
        return f"{self.model}-probe"

    def image_of(self, version: int, digest: str | None = None) -> str:
        """By digest where it is known, by tag otherwise.

        Args:
            digest: of that version's image, as the record knows it.
        """
        digest = digest or (self.digest if version == self.version else None)
        return f"{self.image}@{digest}" if digest else f"{self.image}:{version}"


def base(target: Target) -> dict[str, list[Manifest]]:
    """File name → objects that the team (or its continuous delivery) applies."""
    return {
        "access.yaml": [
            service_account(target, target.model, token=False),
            service_account(target, RELEASE, token=True),
            release_role_binding(target),
        ],
        "network-policy.yaml": [network_policy(target), release_network_policy(target)],
        "disruption-budget.yaml": [disruption_budget(target)],
        "pod-monitor.yaml": [pod_monitor(target)],
    }


def released(target: Target) -> dict[str, list[Manifest]]:
    """File name → objects that only the release applies, as the promotion leaves them."""
    version = target.version
    return {
        "deployment.yaml": [deployment(target, version)],
        "service.yaml": [service(target, version)],
        "autoscaler.yaml": [autoscaler(target, version)],
        "http-route.yaml": [http_route(target, stable=version)],
    }


def labels(target: Target, version: int | None = None) -> dict[str, str]:
    """What selects the pods of one version, or of all."""
    name = {"app.kubernetes.io/name": target.model}
    return name if version is None else name | {"app.kubernetes.io/version": str(version)}


def metadata(target: Target, name: str, version: int | None = None) -> Manifest:
    managed = {"app.kubernetes.io/managed-by": "modelyard"}
    return {
        "name": name,
        "namespace": target.namespace,
        "labels": labels(target, version) | managed,
    }


def service_account(target: Target, name: str, *, token: bool) -> Manifest:
    """Args: token: whether its pods may talk to the Kubernetes API at all."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata(target, name),
        "automountServiceAccountToken": token,
    }


def release_role_binding(target: Target) -> Manifest:
    """The platform's ClusterRole of releases, in the model's namespace only."""
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": metadata(target, RELEASE),
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole",
            "name": versioned_name(RELEASE),
        },
        "subjects": [
            {
                "kind": "ServiceAccount",
                "name": RELEASE,
                "namespace": target.namespace,
            }
        ],
    }


def network_policy(target: Target) -> Manifest:
    """The pods answer the Gateway's proxies and Prometheus, and call nobody."""
    sources = [_peer(each) for each in dict.fromkeys([*target.proxies, *target.scrapers])]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(target, target.model),
        "spec": {
            "podSelector": {"matchLabels": _serving(target)},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": sources, "ports": [{"protocol": "TCP", "port": PORT}]}],
            "egress": [],
        },
    }


def release_network_policy(target: Target) -> Manifest:
    """The pods of a release call (the cluster's API, Prometheus, the Gateway, Git), nobody them.

    Where a namespace denies what is not allowed, they need it.
    """
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(target, RELEASE),
        "spec": {
            "podSelector": {"matchLabels": RELEASE_PODS},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [],
            "egress": [{}],
        },
    }


def policy_object(target: Target, text: str) -> Manifest:
    """The policy that the namespace's releases go by; its files are mounted into each step.

    It asks for no version, so that a release changes nothing of it.

    Args:
        text: of argo/release.yaml, as far as it is the policy of this environment.
    """
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(target, RELEASE),
        "data": {
            "template": versioned_name(RELEASE),  # that a Workflow here may refer to
            "pyproject.toml": f'[project]\nname = "{target.model}"\n',
            "release.yaml": text,
        },
    }


def disruption_budget(target: Target) -> Manifest:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(target, target.model),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": _serving(target)}},
    }


def pod_monitor(target: Target) -> Manifest:
    """Prometheus scrapes all versions; `app_kubernetes_io_version` tells their series apart."""
    monitored = metadata(target, target.model)
    monitored["labels"] |= target.monitor_labels
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": monitored,
        "spec": {
            "selector": {"matchLabels": _serving(target)},
            "podTargetLabels": ["app.kubernetes.io/name", "app.kubernetes.io/version"],
            "podMetricsEndpoints": [
                # BentoML's own label `endpoint` (the path) must not give way to the operator's.
                {
                    "port": "http",
                    "path": METRICS_ROUTE,
                    "interval": f"{SCRAPE_S}s",
                    "honorLabels": True,
                }
            ],
        },
    }


def service(target: Target, version: int) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(target, target.name(version), version),
        "spec": {
            "selector": _serving(target, version),
            "ports": [{"name": "http", "port": 80, "targetPort": "http"}],
        },
    }


def autoscaler(target: Target, version: int) -> Manifest:
    """Each version scales by its own load, so a candidate grows with its weight."""
    cpu = {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": metadata(target, target.name(version), version),
        "spec": {
            "scaleTargetRef": {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "name": target.name(version),
            },
            "minReplicas": target.replicas,
            "maxReplicas": target.max_replicas,
            "metrics": [{"type": "Resource", "resource": cpu}],
        },
    }


def deployment(target: Target, version: int, image: str | None = None) -> Manifest:
    """The pods of one version. How many is the autoscaler's to say, so not said here.

    Args:
        image: of its pods; None: as the target knows it.
    """
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(target, target.name(version), version),
        "spec": {
            "selector": {"matchLabels": _serving(target, version)},
            # A new pod is ready before an old one goes.
            "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {
                "metadata": {"labels": _serving(target, version)},
                "spec": _pod(target, version, image or target.image_of(version)),
            },
        },
    }


def http_route(
    target: Target,
    *,
    stable: int,
    candidate: int | None = None,
    weight: int = 0,
    mirror: bool = False,
) -> Manifest:
    """All requests of the host to the versions by weight.

    Args:
        stable, candidate: versions; without a candidate, stable answers all.
        weight: per cent of the requests that the candidate answers.
        mirror: also send the candidate a copy of each request and drop its answer.
    """
    backends = [_weighted(target, stable, 100 - weight)]
    filters = []
    if candidate is not None:
        backends.append(_weighted(target, candidate, weight))
        if mirror:
            copy = {"backendRef": _backend(target, candidate)}
            filters.append({"type": "RequestMirror", "requestMirror": copy})
    rule = {
        "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
        **({"filters": filters} if filters else {}),
        "backendRefs": backends,
    }
    return _http_route(target, metadata(target, target.model), rule)


def probe_route(target: Target, version: int, token: str) -> Manifest:
    """One path of a version for whoever knows the token, beside the route of all users."""
    header = {"name": PROBE_HEADER, "value": token}
    rule = {
        "matches": [{"path": {"type": "Exact", "value": PROBE_PATH}, "headers": [header]}],
        "backendRefs": [_backend(target, version)],
    }
    return _http_route(target, metadata(target, target.probe, version), rule)


def _http_route(target: Target, about: Manifest, rule: Manifest) -> Manifest:
    namespace, name = target.gateway.split("/")
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": about,
        "spec": {
            "parentRefs": [{"name": name, "namespace": namespace}],
            "hostnames": [target.host],
            "rules": [rule],
        },
    }


def to_yaml(objects: list[Manifest], header: str) -> str:
    """The objects as one YAML stream below `header`, whose lines become comments."""
    comment = "".join(f"# {line}\n" for line in header.splitlines())
    return comment + "---\n".join(
        yaml.dump(each, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
        for each in objects
    )


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        """Kubernetes reads anchors, people less so."""
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        return super().increase_indent(flow, False)

    def represent_text(self, text: str) -> yaml.ScalarNode:
        """Lines stay lines."""
        style = "|" if "\n" in text else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _Dumper.represent_text)


def _pod(target: Target, version: int, image: str) -> Manifest:
    return {
        "serviceAccountName": target.model,
        "automountServiceAccountToken": False,
        # A Service named bentoml would set BENTOML_PORT to an address.
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": SERVING_UID,
            "runAsGroup": SERVING_UID,
            "fsGroup": SERVING_UID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationGracePeriodSeconds": 60,
        # The loss of a node is not the loss of a version.
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": _serving(target, version)},
            }
        ],
        "containers": [
            {
                "name": "serving",
                "image": image,
                "ports": [{"name": "http", "containerPort": PORT}],
                # With a read-only root, what the server writes goes to the scratch volume.
                "env": [{"name": "BENTOML_HOME", "value": "/tmp/bentoml"}],
                "resources": {
                    "requests": {"cpu": target.cpu, "memory": target.memory},
                    "limits": {"memory": target.memory},
                },
                "startupProbe": _probe(READINESS_ROUTE, periodSeconds=5, failureThreshold=36),
                "readinessProbe": _probe(READINESS_ROUTE, periodSeconds=5, failureThreshold=2),
                "livenessProbe": _probe(LIVENESS_ROUTE, periodSeconds=10, failureThreshold=3),
                # The Gateway still sends requests while it learns that the pod goes.
                "lifecycle": {"preStop": {"sleep": {"seconds": 15}}},
                "securityContext": RESTRICTED_CONTAINER,
                "volumeMounts": [{"name": "scratch", "mountPath": "/tmp"}],
            }
        ],
        "volumes": [{"name": "scratch", "emptyDir": {"sizeLimit": "1Gi"}}],
    }


def _probe(path: str, **timing: int) -> Manifest:
    return {"httpGet": {"path": path, "port": "http"}, **timing, "timeoutSeconds": 3}


def _serving(target: Target, version: int | None = None) -> dict[str, str]:
    """The labels of serving pods, which the pods of a release do not have."""
    return labels(target, version) | {"app.kubernetes.io/component": "serving"}


def _backend(target: Target, version: int) -> Manifest:
    return {"name": target.name(version), "port": 80}


def _weighted(target: Target, version: int, weight: int) -> Manifest:
    """A backend of the route. The filter repeats what the server says of itself.

    Envoy Gateway puts the backends of a rule into one Envoy cluster, which counts them as one,
    unless a backend has a filter (envoyproxy/gateway#7017).
    """
    backend = _backend(target, version) | {"weight": weight}
    if not target.cluster_a_backend:
        return backend
    header = {"set": [{"name": VERSION_HEADER, "value": str(version)}]}
    return backend | {
        "filters": [{"type": "ResponseHeaderModifier", "responseHeaderModifier": header}]
    }


def _peer(peer: str) -> Manifest:
    """A namespace, or a range of addresses, that a NetworkPolicy lets in."""
    if is_range(peer):
        return {"ipBlock": {"cidr": peer}}
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": peer}}}
