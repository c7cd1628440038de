"""The Kubernetes side of the ports: Gateway API, Deployments, ConfigMaps as the record.

Every change is a server-side apply of what `manifests` renders, so a step that is run
again changes nothing. What is read is judged by plain functions of the objects.
"""

import json
import os
import re
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime

import httpx

from modelyard.delivery import manifests
from modelyard.delivery.api import Kind, NoSuchKind, Refusal, connect
from modelyard.delivery.manifests import FIELD_MANAGER, Manifest, Target
from modelyard.delivery.policy import Kubernetes
from modelyard.delivery.ports import Health, LockLost, Ports, Routes
from modelyard.delivery.prometheus import Prometheus
from modelyard.documents import ReleaseEvent, UserError

_ROUTE = ("gateway.networking.k8s.io/v1", "HTTPRoute")
_DEPLOYMENT = ("apps/v1", "Deployment")
_CONFIG_MAP = ("v1", "ConfigMap")
_LEASE = ("coordination.k8s.io/v1", "Lease")
WORKFLOW = ("argoproj.io/v1alpha1", "Workflow")
_FULL = 256 * 1024  # bytes of events after which the next event begins a new ConfigMap
_LARGEST = 512 * 1024  # bytes of one event; a ConfigMap may have 1 MiB
_LEASE_S = 60
_LIVE_S = 60  # within which a Gateway takes a route over
_TRIES = 5

# A pod that waits for one of these does not get ready by waiting longer.
_HOPELESS = {
    "CrashLoopBackOff",
    "CreateContainerConfigError",
    "CreateContainerError",
    "ImagePullBackOff",
    "InvalidImageName",
    "RunContainerError",
}


def kubernetes_ports(target: Target, environment: Kubernetes) -> Ports:
    """The four ports of one environment, by the cluster that this process can reach.

    Raises:
        UserError: there is none, or the policy asks for what is not there on Kubernetes.
    """
    if environment.policy.gates.predictions is not None:
        raise UserError(
            f"environments.{target.environment}: the predictions gate needs both versions' "
            "prediction logs in one place, which Kubernetes does not give: set it to null"
        )
    cluster = Cluster(target.namespace)
    return Ports(
        router=GatewayRouter(cluster, target),
        runtime=DeploymentRuntime(cluster, target),
        source=Prometheus(target.prometheus, target.model, target.namespace, environment.metrics),
        record=ConfigMapRecord(cluster, target),
    )


class Cluster:
    """The objects of one namespace, as dicts.

    The cluster is the one that the process runs in, or KUBECONFIG's current context. Each
    method raises UserError where the API server refuses or does not answer.
    """

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self._api = connect()

    def apply(self, manifest: Manifest, *, force: bool = False) -> Manifest:
        """Server-side apply of the fields that the manifest has.

        Args:
            force: take fields over from other writers, instead of refusing.

        Raises:
            Conflict: another writer has a field that this changes, or keeps on writing.
        """
        kind, name = (manifest["apiVersion"], manifest["kind"]), manifest["metadata"]["name"]
        message = ""
        with _refusals(f"apply {kind[1]} {name}"):
            for _ in range(_TRIES):
                present = self.get(kind, name)
                try:
                    return self._api.send(
                        "PATCH", kind, self.namespace, name, _seen(manifest, present),
                        fieldManager=FIELD_MANAGER, force=force,
                    )  # fmt: skip
                except Refusal as refusal:
                    if refusal.status != 409:
                        raise
                    message = api_message(refusal.body)
                    if _managers(refusal.body):
                        raise Conflict(f"can't apply {kind[1]} {name}: {message}") from None
                    # Otherwise it was changed since it was read, as by a Gateway's status.
            raise Conflict(
                f"can't apply {kind[1]} {name}: something else changes it all the time: {message}"
            )

    def get(self, kind: Kind, name: str) -> Manifest | None:
        with _refusals(f"get {kind[1]} {name}"):
            return _unless(404, lambda: self._api.send("GET", kind, self.namespace, name))

    def list(self, kind: Kind, labels: dict[str, str]) -> list[Manifest]:
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        with _refusals(f"list {kind[1]}"):
            found = self._api.send("GET", kind, self.namespace, labelSelector=selector)
            return found["items"]

    def create(self, manifest: Manifest) -> Manifest | None:
        """As it was made; None if an object of that name is there already."""
        kind, metadata = (manifest["apiVersion"], manifest["kind"]), manifest["metadata"]
        name = metadata.get("name") or metadata.get("generateName")
        with _refusals(f"create {kind[1]} {name}"):
            return _unless(409, lambda: self._api.send("POST", kind, self.namespace, body=manifest))

    def replace(self, manifest: Manifest) -> bool:
        """False if the object was changed since it was read (by its resourceVersion)."""
        kind, name = (manifest["apiVersion"], manifest["kind"]), manifest["metadata"]["name"]
        with _refusals(f"replace {kind[1]} {name}"):
            done = _unless(409, lambda: self._api.send("PUT", kind, self.namespace, name, manifest))
            return done is not None

    def delete(self, manifest: Manifest) -> None:
        kind, name = (manifest["apiVersion"], manifest["kind"]), manifest["metadata"]["name"]
        with _refusals(f"delete {kind[1]} {name}"):
            _unless(404, lambda: self._api.send("DELETE", kind, self.namespace, name))


def _unless(status: int, call: Callable[[], Manifest]) -> Manifest | None:
    """None where the API server refuses with this status."""
    try:
        return call()
    except Refusal as refusal:
        if refusal.status == status:
            return None
        raise


class NoAnswer(UserError):
    """The API server can't be reached, or is not itself; asking again may help."""


class Conflict(UserError):
    """Another writer has its hands on an object that only a release should write."""


def _seen(manifest: Manifest, present: Manifest | None) -> Manifest:
    """The manifest, to be refused if the object is another one by now than was looked at."""
    if present is None:
        return manifest
    version = {"resourceVersion": present["metadata"]["resourceVersion"]}
    return manifest | {"metadata": manifest["metadata"] | version}


def _managers(body: str) -> bool:
    """Whether a refusal is about fields that other managers own."""
    try:
        causes = json.loads(body).get("details", {}).get("causes") or []
    except (ValueError, AttributeError):
        return False
    return any(each.get("reason") == "FieldManagerConflict" for each in causes)


@contextmanager
def _refusals(what: str) -> Iterator[None]:
    try:
        yield
    except Refusal as refusal:
        kind = NoAnswer if refusal.status >= 500 else UserError
        told = api_message(refusal.body) or refusal.reason
        raise kind(f"can't {what}: {told}") from None
    except NoSuchKind as missing:
        raise UserError(f"can't {what}: the cluster has no such kind ({missing})") from None
    except httpx.HTTPError as error:
        raise NoAnswer(f"can't {what}: the API server does not answer ({error})") from None


def api_message(body: str) -> str:
    """What the API server says in the body of a refusal."""
    try:
        return json.loads(body).get("message", "")
    except (ValueError, AttributeError):
        return ""


class GatewayRouter:
    """Router: the weights of one HTTPRoute, and a mirror filter in shadow."""

    def __init__(self, cluster: Cluster, target: Target) -> None:
        self._cluster, self._target = cluster, target

    def route(self, routes: Routes) -> None:
        route = route_of(self._target, routes)
        if route is None:
            self._cluster.delete(manifests.http_route(self._target, stable=0))
            return
        self._apply(route, routes)
        end = time.monotonic() + _LIVE_S
        while problem := route_problem(self._cluster.get(_ROUTE, self._target.model)):
            if time.monotonic() > end:
                raise UserError(
                    f"HTTPRoute {self._target.model} is not live after {_LIVE_S} s: {problem}; "
                    f"look at Gateway {self._target.gateway}"
                )
            time.sleep(1)

    def _apply(self, route: Manifest, routes: Routes) -> None:
        """Only the way back to stable takes fields over from whoever else has written them."""
        try:
            self._cluster.apply(route)
        except Conflict as conflict:
            if routes.weight or routes.mirror:
                raise UserError(
                    f"{conflict}; only the release should write it: see who does by "
                    f"`kubectl get httproute {self._target.model} --show-managed-fields -o yaml`"
                ) from None
            print(f"{conflict}; all traffic goes to stable all the same", file=sys.stderr)
            self._cluster.apply(route, force=True)


def route_of(target: Target, routes: Routes) -> Manifest | None:
    """The HTTPRoute that makes `routes` live; None where there is nobody to route to."""
    if routes.stable is not None:
        return manifests.http_route(
            target,
            stable=routes.stable,
            # Without traffic it is on its way out; a backend that is gone would break the route.
            candidate=routes.candidate if routes.weight or routes.mirror else None,
            weight=routes.weight,
            mirror=routes.mirror,
        )
    if routes.candidate is not None and routes.weight:
        return manifests.http_route(target, stable=routes.candidate)
    return None


def route_problem(route: Manifest | None) -> str:
    """Why the Gateway does not route by this yet; empty if it does."""
    parents = ((route or {}).get("status") or {}).get("parents") or []
    if route is None or not parents:
        return "no Gateway has taken it"
    for parent in parents:
        conditions = {each["type"]: each for each in parent.get("conditions") or []}
        for kind in ("Accepted", "ResolvedRefs"):
            condition = conditions.get(kind)
            if condition is None:
                return f"{kind} is not known"
            if condition.get("observedGeneration", 0) < route["metadata"]["generation"]:
                return "the Gateway has not seen it"
            if condition["status"] != "True":
                return f"not {kind}: {condition.get('reason')}: {condition.get('message')}"
    return ""


class DeploymentRuntime:
    """Runtime: a Deployment, a Service and an autoscaler a version."""

    def __init__(self, cluster: Cluster, target: Target) -> None:
        self._cluster, self._target = cluster, target

    def check(self, version: int) -> None:
        account = manifests.service_account(self._target, self._target.model, token=False)
        if self._cluster.get(("v1", "ServiceAccount"), account["metadata"]["name"]) is None:
            raise UserError(
                f"namespace {self._target.namespace} has no ServiceAccount {self._target.model}: "
                f"kubectl apply -f argo/manifests/{self._target.environment} first"
            )

    def deploy(self, version: int) -> None:
        for manifest in self._objects(version):
            self._cluster.apply(manifest)

    def health(self, version: int) -> Health:
        deployment = self._cluster.get(_DEPLOYMENT, self._target.name(version))
        pods = self._cluster.list(("v1", "Pod"), manifests.labels(self._target, version))
        return health_of(deployment, pods, self._target.replicas)

    def stop(self, version: int) -> None:
        for manifest in reversed(self._objects(version)):
            self._cluster.delete(manifest)

    def versions(self) -> set[int]:
        found = self._cluster.list(_DEPLOYMENT, manifests.labels(self._target))
        return {int(d["metadata"]["labels"]["app.kubernetes.io/version"]) for d in found}

    def _objects(self, version: int) -> list[Manifest]:
        return [
            manifests.deployment(self._target, version),
            manifests.service(self._target, version),
            manifests.autoscaler(self._target, version),
        ]


def approval_is_due(workflow: Manifest | None, node: str) -> bool:
    """Whether a workflow still waits for a person at a suspended node.

    It is not when the node has ended, or with it the workflow. A node that is not there yet
    begins in the same breath as whoever asks.
    """
    status = (workflow or {}).get("status") or {}
    if workflow is None or status.get("phase") in ("Succeeded", "Failed", "Error"):
        return False
    nodes = (status.get("nodes") or {}).values()
    phases = [n.get("phase") for n in nodes if n.get("displayName") == node]
    return all(phase in ("Pending", "Running") for phase in phases)


def health_of(deployment: Manifest | None, pods: list[Manifest], replicas: int) -> Health:
    """A version is ready when `replicas` pods of its newest template are available.

    Fewer will do where it was deployed by a policy that asks for fewer.
    """
    if deployment is None:
        return Health(status="absent")
    status = deployment.get("status") or {}
    replicas = max(1, min(replicas, deployment["spec"].get("replicas", replicas)))
    seen = status.get("observedGeneration", 0) >= deployment["metadata"]["generation"]
    updated = min(status.get("updatedReplicas") or 0, status.get("availableReplicas") or 0)
    if seen and updated >= replicas:
        return Health(status="ready")
    for pod in pods:
        for container in (pod.get("status") or {}).get("containerStatuses") or []:
            waiting = (container.get("state") or {}).get("waiting") or {}
            if waiting.get("reason") in _HOPELESS:
                detail = f"{pod['metadata']['name']}: {waiting['reason']}: "
                return Health(status="failed", detail=detail + (waiting.get("message") or ""))
    for condition in status.get("conditions") or []:
        failed = condition["type"] == "ReplicaFailure" and condition["status"] == "True"
        stuck = condition.get("reason") == "ProgressDeadlineExceeded"
        if seen and (failed or stuck):
            return Health(status="failed", detail=condition.get("message") or "")
    return Health(status="starting", detail=f"{updated} of {replicas} pods available")


class ConfigMapRecord:
    """Record: a key an event, in ConfigMaps of some hundred KiB; a Lease is the lock."""

    def __init__(self, cluster: Cluster, target: Target) -> None:
        self._cluster, self._target = cluster, target
        self._lease: Lease | None = None
        self._labels = manifests.labels(target) | {"app.kubernetes.io/component": "release-record"}
        self._last = ("", 0)
        """a release, and the number of its newest ConfigMap"""

    @contextmanager
    def _held(self) -> Iterator[None]:
        metadata = manifests.metadata(self._target, self._target.release_account)
        with Lease(self._cluster, metadata) as self._lease:
            yield

    def lock(self) -> AbstractContextManager[None]:
        return self._held()

    def check(self) -> None:
        if self._lease is not None:
            self._lease.check()

    def releases(self) -> list[list[ReleaseEvent]]:
        return releases_of(self._cluster.list(_CONFIG_MAP, self._labels))

    def append(self, event: ReleaseEvent) -> None:
        key, text = f"{event.sequence:06d}", event.model_dump_json()
        if (size := len(text.encode())) > _LARGEST:
            raise UserError(
                f"event {event.sequence} of release {event.release} has {size} bytes; "
                f"a ConfigMap takes {_LARGEST}: have fewer slices"
            )
        number = self._newest(event.release)
        while True:
            name = record_name(self._target.model, event.release, number)
            if self._cluster.create(self._map(name) | {"data": {key: text}}):
                break
            present = self._cluster.get(_CONFIG_MAP, name) or self._map(name)
            written = present.get("data") or {}
            if written.get(key) == text:
                break  # by a controller that died then
            if key not in written and is_full(written):
                number += 1
                continue
            # Refused if the map was changed since it was read.
            grown = present | {"data": {**written, key: text}}
            if key not in written and self._cluster.replace(grown):
                break
            raise LockLost(f"ConfigMap {name}: {key} was written by another controller")
        self._last = (event.release, number)

    def _newest(self, release: str) -> int:
        """Of a release's ConfigMaps, so that an append asks for no other."""
        if self._last[0] == release:
            return self._last[1]
        prefix = record_name(self._target.model, release, 0)[:-1]
        names = [each["metadata"]["name"] for each in self._cluster.list(_CONFIG_MAP, self._labels)]
        return max((int(n[len(prefix) :]) for n in names if n.startswith(prefix)), default=0)

    def _map(self, name: str) -> Manifest:
        metadata = manifests.metadata(self._target, name) | {"labels": self._labels}
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}


def record_name(model: str, release: str, number: int) -> str:
    """Of the ConfigMap that holds a part of a release's events."""
    short = re.sub(r"[^a-z0-9]+", "-", release.lower()).strip("-")
    return f"{model}-release-{short}-{number}"


def is_full(data: dict[str, str]) -> bool:
    """Whether the next event belongs into a new ConfigMap.

    By what is in it alone, so that two writers who see the same map choose the same place.
    """
    return sum(len(key) + len(text.encode()) for key, text in data.items()) >= _FULL


def releases_of(config_maps: list[Manifest]) -> list[list[ReleaseEvent]]:
    """The events of all releases, oldest release first.

    Raises:
        UserError: a record was edited by hand.
    """
    from pydantic import ValidationError

    found: dict[str, list[ReleaseEvent]] = {}
    for each in config_maps:
        for key, text in (each.get("data") or {}).items():
            try:
                event = ReleaseEvent.model_validate_json(text)
            except ValidationError:
                where = f"ConfigMap {each['metadata']['name']}"
                raise UserError(f"{where}: {key} is no release event") from None
            found.setdefault(event.release, []).append(event)
    for release, events in found.items():
        events.sort(key=lambda event: event.sequence)
        if len({event.sequence for event in events}) < len(events):
            raise UserError(
                f"release {release}: an event is in its ConfigMaps twice; a record is "
                "append-only: restore it, or delete all of the release's ConfigMaps"
            )
        missing = set(range(events[-1].sequence)) - {event.sequence for event in events}
        if missing:
            raise UserError(
                f"release {release}: event {min(missing)} is missing from its ConfigMaps; "
                "a record is append-only: restore it, or delete all of the release's ConfigMaps"
            )
    return sorted(found.values(), key=lambda events: (events[0].time, events[0].release))


class Lease:
    """The lock of an environment, renewed in the background while it is held."""

    def __init__(self, cluster: Cluster, metadata: Manifest) -> None:
        self._cluster, self._metadata, self._name = cluster, metadata, metadata["name"]
        self.holder = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._until = 0.0
        """of time.monotonic(): nobody else takes it before"""
        self._done = threading.Event()
        self._renewal = threading.Thread(target=self._keep)

    def __enter__(self) -> "Lease":
        """Raises: UserError: another controller holds the lease."""
        self._take()
        self._renewal.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._renewal.join()
        with suppress(UserError):  # it ends by itself
            present = self._cluster.get(_LEASE, self._name)
            if present and present["spec"].get("holderIdentity") == self.holder:
                self._cluster.replace(present | {"spec": {"holderIdentity": ""}})

    def check(self) -> None:
        """Raises: LockLost: it was taken, or could not be renewed in time."""
        if time.monotonic() > self._until:
            raise LockLost(
                f"the lease {self._name} in namespace {self._cluster.namespace} was lost to "
                "another controller, or could not be renewed; run the same again to go on"
            )

    def renew(self) -> None:
        """Raises: UserError: no answer; it is still held until it ends."""
        until = time.monotonic() + _LEASE_S
        present = self._cluster.get(_LEASE, self._name)
        if present is None or (present.get("spec") or {}).get("holderIdentity") != self.holder:
            self._until = 0.0
        elif self._cluster.replace(present | {"spec": _lease_spec(self.holder)}):
            self._until = until

    def _take(self) -> None:
        until = time.monotonic() + _LEASE_S
        lease = {"apiVersion": _LEASE[0], "kind": _LEASE[1], "metadata": self._metadata}
        spec = {"spec": _lease_spec(self.holder)}
        if not self._cluster.create(lease | spec):
            present = self._cluster.get(_LEASE, self._name) or lease
            other = lease_holder(present, datetime.now(UTC))
            if other is not None or not self._cluster.replace(present | spec):
                raise UserError(
                    f"{other or 'another controller'} is releasing in namespace "
                    f"{self._cluster.namespace}; wait for it to end (a controller that died "
                    f"lets go after {_LEASE_S} s)"
                )
        self._until = until

    def _keep(self) -> None:
        while not self._done.wait(_LEASE_S / 3):
            with suppress(UserError):  # the next renewal comes before the lease ends
                self.renew()


def _lease_spec(holder: str) -> Manifest:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {"holderIdentity": holder, "leaseDurationSeconds": _LEASE_S, "renewTime": now}


def lease_holder(lease: Manifest, now: datetime) -> str | None:
    """Who holds a lease; None if nobody does, or its holder has not renewed it."""
    spec = lease.get("spec") or {}
    if not spec.get("holderIdentity") or not spec.get("renewTime"):
        return None
    age = now - datetime.fromisoformat(spec["renewTime"])
    return spec["holderIdentity"] if age.total_seconds() < _LEASE_S else None
