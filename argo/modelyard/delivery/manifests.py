"""The Kubernetes objects of one model in one environment, as plain dicts.

Pure functions of a `Target`. `modelyard render` writes them as YAML, and the release
applies the ones that come and go with a version (`released`) with the very same
functions. What a team or its continuous delivery applies (`base`) no release touches:
each object has one writer.

Each version has a Deployment and a Service of its own, so a promotion only moves the
weights of the HTTPRoute and starts no pod again, and a rollback finds the stable pods
as they were.
"""

from dataclasses import dataclass
from importlib.metadata import version as installed_version
from typing import Any
from urllib.parse import urlsplit

import yaml

Manifest = dict[str, Any]

PORT = 3000
SERVING_UID = 1034  # the user of the images that `bentoml containerize` makes
FIELD_MANAGER = "modelyard-release"

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
    proxies: str | None = None
    """namespace of the Gateway's proxies; None: the Gateway's"""
    prometheus: str
    """URL; the namespace in it may scrape the pods"""
    cluster_a_backend: bool = False
    """whether the Gateway's Envoy is to count the versions apart"""
    replicas: int = 2
    max_replicas: int = 10
    cpu: str = "500m"
    """requested by a pod; there is no limit: throttling would show as latency"""
    memory: str = "1Gi"
    """requested by a pod, and its limit"""

    def name(self, version: int) -> str:
        return f"{self.model}-v{version}"

    def image_of(self, version: int) -> str:
        """By digest where it is known, by tag otherwise."""
        if version == self.version and self.digest:
            return f"{self.image}@{self.digest}"
        return f"{self.image}:{version}"

    @property
    def release_account(self) -> str:
        return f"{self.model}-release"


def base(target: Target) -> dict[str, list[Manifest]]:
    """File name → objects that the team (or its continuous delivery) applies."""
    return {
        "access.yaml": [
            service_account(target, target.model, token=False),
            service_account(target, target.release_account, token=True),
            release_role_binding(target),
        ],
        "network-policy.yaml": [network_policy(target)],
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


def versioned_name(name: str) -> str:
    """`name-v0-1-0`: shared objects are named by the version and never edited in place."""
    return f"{name}-v{installed_version('modelyard').replace('.', '-').replace('+', '-')}"


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
        "metadata": metadata(target, target.release_account),
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole",
            "name": versioned_name("modelyard-release"),
        },
        "subjects": [
            {
                "kind": "ServiceAccount",
                "name": target.release_account,
                "namespace": target.namespace,
            }
        ],
    }


def network_policy(target: Target) -> Manifest:
    """The pods answer the Gateway's proxies and Prometheus, and call nobody."""
    proxies = target.proxies or target.gateway.split("/")[0]
    sources = [_namespace(proxies), _namespace(_monitoring_namespace(target.prometheus))]
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


def disruption_budget(target: Target) -> Manifest:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(target, target.model),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": _serving(target)}},
    }


def pod_monitor(target: Target) -> Manifest:
    """Prometheus scrapes all versions; `app_kubernetes_io_version` tells their series apart."""
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": metadata(target, target.model),
        "spec": {
            "selector": {"matchLabels": _serving(target)},
            "podTargetLabels": ["app.kubernetes.io/name", "app.kubernetes.io/version"],
            "podMetricsEndpoints": [
                # BentoML's own label `endpoint` (the path) must not give way to the operator's.
                {"port": "http", "path": "/metrics", "interval": "5s", "honorLabels": True}
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


def deployment(target: Target, version: int) -> Manifest:
    """The pods of one version. How many is the autoscaler's to say, so not said here."""
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
                "spec": _pod(target, version),
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
    namespace, name = target.gateway.split("/")
    backends = [_weighted(target, stable, 100 - weight)]
    filters = []
    if candidate is not None:
        backends.append(_weighted(target, candidate, weight))
        if mirror:
            copy = {"backendRef": _backend(target, candidate)}
            filters.append({"type": "RequestMirror", "requestMirror": copy})
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": metadata(target, target.model),
        "spec": {
            "parentRefs": [{"name": name, "namespace": namespace}],
            "hostnames": [target.host],
            "rules": [
                {
                    "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
                    **({"filters": filters} if filters else {}),
                    "backendRefs": backends,
                }
            ],
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


def _pod(target: Target, version: int) -> Manifest:
    return {
        "serviceAccountName": target.model,
        "automountServiceAccountToken": False,
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
                "image": target.image_of(version),
                "ports": [{"name": "http", "containerPort": PORT}],
                # With a read-only root, what the server writes goes to the scratch volume.
                "env": [{"name": "BENTOML_HOME", "value": "/tmp/bentoml"}],
                "resources": {
                    "requests": {"cpu": target.cpu, "memory": target.memory},
                    "limits": {"memory": target.memory},
                },
                "startupProbe": _probe("/readyz", periodSeconds=5, failureThreshold=36),
                "readinessProbe": _probe("/readyz", periodSeconds=5, failureThreshold=2),
                "livenessProbe": _probe("/livez", periodSeconds=10, failureThreshold=3),
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
    header = {"set": [{"name": "x-model-version", "value": str(version)}]}
    return backend | {
        "filters": [{"type": "ResponseHeaderModifier", "responseHeaderModifier": header}]
    }


def _namespace(name: str) -> Manifest:
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}


def _monitoring_namespace(url: str) -> str:
    """`monitoring` of http://prometheus.monitoring.svc:9090."""
    host = (urlsplit(url).hostname or "").split(".")
    return host[1] if len(host) > 1 else "monitoring"
