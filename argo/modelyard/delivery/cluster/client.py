"""The Kubernetes side of the ports: Gateway API, Deployments, ConfigMaps as the record.

Every change is a server-side apply of what `manifests` renders, so a step that is run
again changes nothing. What is read is judged by plain functions of the objects.
"""

import json
import math
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
from typing import Any

import httpx

from modelyard.delivery.cluster.api import Kind, NoSuchKind, Refusal, connect
from modelyard.delivery.cluster.prometheus import BLIND, Prometheus
from modelyard.delivery.manifests import objects as manifests
from modelyard.delivery.manifests.objects import FIELD_MANAGER, Manifest, Target
from modelyard.delivery.policy import Kubernetes
from modelyard.delivery.ports import Health, LockLost, NoAnswer, Ports, Routes
from modelyard.documents import ReleaseEvent, UserError, image_digest
from modelyard.documents.record import APPEND_ONLY, Changed

_ROUTE = ("gateway.networking.k8s.io/v1", "HTTPRoute")
_DEPLOYMENT = ("apps/v1", "Deployment")
_CONFIG_MAP = ("v1", "ConfigMap")
_LEASE = ("coordination.k8s.io/v1", "Lease")
WORKFLOW = ("argoproj.io/v1alpha1", "Workflow")
_FULL = 256 * 1024  # bytes of events after which the next event begins a new ConfigMap
_LARGEST = 512 * 1024  # bytes of one event; a ConfigMap may have 1 MiB
_ASIDE = "release-record-set-aside"
_LEASE_S = 60
_LIVE_S = 60  # within which a Gateway takes a route over
_TRIES = 5
_PATIENCE_S = 90.0  # for which an API server that does not answer is asked again
_AGAIN_S = 1.0

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
    from modelyard.delivery.cluster.reach import GatewayReach

    cluster, metrics = Cluster(target.namespace), environment.metrics
    record = ConfigMapRecord(cluster, target)
    source = Prometheus(target.prometheus, target.model, target.namespace, metrics)

    def digest(version: int) -> str | None:
        return image_digest(record.releases(), version)

    return Ports(
        router=GatewayRouter(cluster, target),
        runtime=DeploymentRuntime(cluster, target, digest),
        source=source,
        record=record,
        reach=GatewayReach(cluster, target, source, environment),
        blind=BLIND if metrics.source == "servers" and not metrics.requests else "",
    )


class Cluster:
    """The objects of one namespace, as dicts.

    The cluster is the one that the process runs in, or KUBECONFIG's current context. Each
    method asks again for a while where the API server does not answer, and raises UserError
    where it refuses.
    """

    def __init__(self, namespace: str, patience: float = _PATIENCE_S) -> None:
        """Args: patience: s for which an API server that does not answer is asked again."""
        self.namespace, self._patience = namespace, patience
        self._api = connect()
        self.may_write: Callable[[], None] = anybody_may
        """called before each write; raises LockLost where this process may write no more"""
        if "KUBERNETES_SERVICE_HOST" not in os.environ:
            # From outside, what can't be reached at all is rather another cluster than was meant.
            with _refusals("reach the cluster"):
                self._api.reach()

    def _ask(self, what: str, call: Callable[[], Any], writes: bool = False) -> Any:
        """Raises:
        NoAnswer: the API server gave none for as long as one has patience.
        LockLost: it is not to be written, or to be waited any longer.
        """
        end, told = time.monotonic() + self._patience, False
        while True:
            if writes or told:
                self.may_write()
            try:
                with _refusals(what):
                    return call()
            except NoAnswer as error:
                if time.monotonic() >= end:
                    raise
                if not told:
                    _say(f"{error}; asking again for up to {self._patience:g} s")
                told = True
            time.sleep(_AGAIN_S)

    def apply(self, manifest: Manifest, *, force: bool = False) -> Manifest:
        """Server-side apply of the fields that the manifest has.

        Args:
            force: take fields over from other writers, instead of refusing.

        Raises:
            Conflict: another writer has a field that this changes, or keeps on writing.
        """
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        return self._ask(f"apply {kind} {name}", lambda: self._apply(manifest, force), writes=True)

    def _apply(self, manifest: Manifest, force: bool) -> Manifest:
        kind, name = (manifest["apiVersion"], manifest["kind"]), manifest["metadata"]["name"]
        message = ""
        for _ in range(_TRIES):
            body = _seen(manifest, self.get(kind, name))
            try:
                return self._api.send(
                    "PATCH", kind, self.namespace, name, body,
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

    def get(self, kind: Kind, name: str, namespace: str | None = None) -> Manifest | None:
        """Args: namespace: another than the cluster's own."""
        place = namespace or self.namespace
        return self._ask(
            f"get {kind[1]} {name}",
            lambda: _unless(404, lambda: self._api.send("GET", kind, place, name)),
        )

    def list(self, kind: Kind, labels: dict[str, str]) -> list[Manifest]:
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        found = self._ask(
            f"list {kind[1]}",
            lambda: self._api.send("GET", kind, self.namespace, labelSelector=selector),
        )
        return found["items"]

    def create(self, manifest: Manifest) -> Manifest | None:
        """As it was made; None if an object of that name is there already.

        So it may be by this very call, if the answer was lost.
        """
        kind, metadata = (manifest["apiVersion"], manifest["kind"]), manifest["metadata"]
        name = metadata.get("name") or metadata.get("generateName")
        return self._write(f"create {kind[1]} {name}", 409, "POST", kind, "", manifest)

    def replace(self, manifest: Manifest) -> bool:
        """False if the object was changed since it was read (by its resourceVersion).

        So it may be by this very call, if the answer was lost.
        """
        kind, name = (manifest["apiVersion"], manifest["kind"]), manifest["metadata"]["name"]
        done = self._write(f"replace {kind[1]} {name}", 409, "PUT", kind, name, manifest)
        return done is not None

    def delete(self, manifest: Manifest) -> None:
        kind, name = (manifest["apiVersion"], manifest["kind"]), manifest["metadata"]["name"]
        self._write(f"delete {kind[1]} {name}", 404, "DELETE", kind, name)

    def _write(
        self,
        what: str,
        unless: int,
        method: str,
        kind: Kind,
        name: str,
        body: Manifest | None = None,
    ) -> Manifest | None:
        """None where the API server refuses with the status `unless`."""

        def call() -> Manifest:
            return self._api.send(method, kind, self.namespace, name, body)

        return self._ask(what, lambda: _unless(unless, call), writes=True)


def _unless(status: int, call: Callable[[], Manifest]) -> Manifest | None:
    """None where the API server refuses with this status."""
    try:
        return call()
    except Refusal as refusal:
        if refusal.status == status:
            return None
        raise


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def anybody_may() -> None:
    """Where there is no lock to lose."""


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
        unable = refusal.status >= 500 or refusal.status == 429
        kind = NoAnswer if unable else UserError
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

    def serving(self) -> dict[int, int]:
        return serving_of(self._target, self._cluster.get(_ROUTE, self._target.model))

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
            _say(f"{conflict}; all traffic goes to stable all the same")
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


def serving_of(target: Target, route: Manifest | None) -> dict[int, int]:
    """Version → weight, above 0, by the backends of an HTTPRoute."""
    found: dict[int, int] = {}
    for rule in ((route or {}).get("spec") or {}).get("rules") or []:
        for backend in rule.get("backendRefs") or []:
            prefix, _, version = backend["name"].rpartition("-v")
            weight = backend.get("weight", 1)
            if prefix == target.model and version.isdigit() and weight > 0:
                found[int(version)] = found.get(int(version), 0) + weight
    return found


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

    def __init__(
        self,
        cluster: Cluster,
        target: Target,
        digest: Callable[[int], str | None] = lambda version: None,
    ) -> None:
        """Args: digest: of a version's image, as the record knows it."""
        self._cluster, self._target, self._digest = cluster, target, digest

    def check(self, version: int) -> None:
        account = manifests.service_account(self._target, self._target.model, token=False)
        if self._cluster.get(("v1", "ServiceAccount"), account["metadata"]["name"]) is None:
            raise UserError(
                f"namespace {self._target.namespace} has no ServiceAccount {self._target.model}: "
                f"kubectl apply -f argo/manifests/{self._target.environment} first"
            )

    def deploy(self, version: int) -> None:
        """What is there keeps its image, whatever is asked for now."""
        present = self._cluster.get(_DEPLOYMENT, self._target.name(version))
        known = image_of(present) or self._target.image_of(version, self._digest(version))
        for manifest in self._objects(version, known):
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

    def _objects(self, version: int, image: str | None = None) -> list[Manifest]:
        return [
            manifests.deployment(self._target, version, image),
            manifests.service(self._target, version),
            manifests.autoscaler(self._target, version),
        ]


def image_of(deployment: Manifest | None) -> str | None:
    """That the serving container of a Deployment has; None where there is no Deployment."""
    containers = deployment["spec"]["template"]["spec"]["containers"] if deployment else []
    return next((each["image"] for each in containers if each["name"] == "serving"), None)


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


def is_approved(workflow: Manifest | None, node: str) -> bool:
    """Whether a person has resumed a workflow at a suspended node."""
    nodes = (((workflow or {}).get("status") or {}).get("nodes") or {}).values()
    return any(
        (n.get("displayName"), n.get("type"), n.get("phase")) == (node, "Suspend", "Succeeded")
        for n in nodes
    )


def health_of(deployment: Manifest | None, pods: list[Manifest], replicas: int) -> Health:
    """A version is ready when `replicas` pods of its newest template are available.

    Fewer will do where it was deployed by a policy that asks for fewer. It has not failed while
    any of its pods is ready.
    """
    if deployment is None:
        return Health(status="absent", detail="it has no Deployment", ready=0)
    status = deployment.get("status") or {}
    replicas = max(1, min(replicas, deployment["spec"].get("replicas", replicas)))
    seen = status.get("observedGeneration", 0) >= deployment["metadata"]["generation"]
    # Pods that are being deleted are not among these.
    ready = status.get("readyReplicas") or 0
    updated = min(status.get("updatedReplicas") or 0, status.get("availableReplicas") or 0)
    if seen and updated >= replicas and ready:
        return Health(status="ready", ready=ready)
    why = _hopeless(pods) or (_stuck(status) if seen else "")
    if why and not ready:
        return Health(status="failed", detail=why, ready=0)
    available = f"{updated} of {replicas} pods available"
    return Health(
        status="starting", detail=f"{available}; {why}" if why else available, ready=ready
    )


def _hopeless(pods: list[Manifest]) -> str:
    """What a pod waits for in vain; empty if none does."""
    for pod in pods:
        for container in (pod.get("status") or {}).get("containerStatuses") or []:
            waiting = (container.get("state") or {}).get("waiting") or {}
            if waiting.get("reason") in _HOPELESS:
                what = f"{pod['metadata']['name']}: {waiting['reason']}"
                return f"{what}: {waiting['message']}" if waiting.get("message") else what
    return ""


def _stuck(status: Manifest) -> str:
    """Why a Deployment gets no further; empty if it may."""
    for condition in status.get("conditions") or []:
        failed = condition["type"] == "ReplicaFailure" and condition["status"] == "True"
        if failed or condition.get("reason") == "ProgressDeadlineExceeded":
            return condition.get("message") or condition["type"]
    return ""


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
        metadata = manifests.metadata(self._target, manifests.RELEASE)
        try:
            with Lease(self._cluster, metadata) as self._lease:
                # Whatever rides out an outage must not write once the lease has run out.
                self._cluster.may_write = self._lease.check
                yield
        finally:
            self._cluster.may_write = anybody_may

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
        number, new = self._newest(event.release), event.sequence == 0
        while True:
            name = record_name(self._target.model, event.release, number)
            present = self._cluster.get(_CONFIG_MAP, name)
            if present is None and not new:
                raise UserError(f"ConfigMap {name} of the record is gone: who has deleted it?")
            written = (present or {}).get("data") or {}
            if written.get(key) == text:
                break  # by a controller that died then
            if key in written:
                raise LockLost(f"ConfigMap {name}: {key} was written by another controller")
            if is_full(written):
                number, new = number + 1, True
                continue
            # Refused if the map was made or changed since it was looked for.
            grown = (present or self._map(name)) | {"data": {**written, key: text}}
            if not (self._cluster.replace(grown) if present else self._cluster.create(grown)):
                self._see(name, key, text)
            break
        self._last = (event.release, number)

    def _see(self, name: str, key: str, text: str) -> None:
        """Raises: LockLost: what was refused is not there, as it is where the answer was lost."""
        present = self._cluster.get(_CONFIG_MAP, name) or {}
        if (present.get("data") or {}).get(key) != text:
            raise LockLost(f"ConfigMap {name}: {key} was written by another controller")

    def set_aside(self, sound: Callable[[list[ReleaseEvent]], bool]) -> list[str]:
        """By a label, which `releases` does not look for."""
        kept, aside = sorted_out(self._cluster.list(_CONFIG_MAP, self._labels), sound)
        label = {"app.kubernetes.io/component": _ASIDE}
        for each in aside:
            metadata = each["metadata"]
            moved = metadata | {"labels": metadata["labels"] | label}
            whole = {"apiVersion": "v1", "kind": "ConfigMap"} | each
            if not self._cluster.replace(whole | {"metadata": moved}):
                raise UserError(f"ConfigMap {metadata['name']} was changed just now: try again")
        return [f"ConfigMap {each['metadata']['name']}" for each in aside]

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
        Changed: a record was edited by hand.
    """
    from pydantic import ValidationError

    found: dict[str, list[ReleaseEvent]] = {}
    for each in config_maps:
        for key, text in (each.get("data") or {}).items():
            try:
                event = ReleaseEvent.model_validate_json(text)
            except ValidationError:
                where = f"ConfigMap {each['metadata']['name']}"
                raise Changed(f"{where}: {key} is no release event") from None
            found.setdefault(event.release, []).append(event)
    for release, events in found.items():
        events.sort(key=lambda event: event.sequence)
        if len({event.sequence for event in events}) < len(events):
            raise Changed(f"release {release}: an event is in its ConfigMaps twice; {APPEND_ONLY}")
        missing = set(range(events[-1].sequence)) - {event.sequence for event in events}
        if missing:
            raise Changed(
                f"release {release}: event {min(missing)} is missing from its ConfigMaps; "
                f"{APPEND_ONLY}"
            )
    return sorted(found.values(), key=lambda events: (events[0].time, events[0].release))


def sorted_out(
    config_maps: list[Manifest], sound: Callable[[list[ReleaseEvent]], bool]
) -> tuple[list[Manifest], list[Manifest]]:
    """Those of releases that can be read together and are sound, and the others."""
    parts: dict[str, list[Manifest]] = {}
    for each in sorted(config_maps, key=lambda each: each["metadata"]["name"]):
        parts.setdefault(each["metadata"]["name"].rpartition("-")[0], []).append(each)
    kept: list[Manifest] = []
    aside: list[Manifest] = []
    for part in parts.values():
        try:
            fine = all(map(sound, releases_of([*kept, *part])))
        except UserError:
            fine = False
        (kept if fine else aside).extend(part)
    return kept, aside


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
        try:
            self._take()
            self._renewal.start()
        except (KeyboardInterrupt, SystemExit):  # ended, maybe after the lease was given
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        if self._renewal.ident is not None:
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
        """A holder is waited for until it is seen to renew the lease, or to let it run out.

        By this process's clock alone: those of two machines may differ.
        """
        lease = {"apiVersion": _LEASE[0], "kind": _LEASE[1], "metadata": self._metadata}
        seen, ends = "", math.inf
        while True:
            until = time.monotonic() + _LEASE_S
            mine = {"spec": _lease_spec(self.holder)}
            if self._cluster.create(lease | mine):
                break
            present = self._cluster.get(_LEASE, self._name)
            if present is None:
                continue
            holder, version = lease_holder(present), present["metadata"]["resourceVersion"]
            if holder == self.holder:
                break  # the answer was lost
            if holder and seen not in ("", version):
                where = f"in namespace {self._cluster.namespace}"
                raise UserError(f"{holder} is releasing {where}; wait for it to end")
            over = not holder or time.monotonic() > ends
            if over and self._cluster.replace(present | mine):
                break
            if holder and not seen:
                seen, ends = version, time.monotonic() + _LEASE_S
                _say(f"{holder} has the lease {self._name}: waiting for up to {_LEASE_S} s to see "
                     "whether it is still at work")  # fmt: skip
            time.sleep(_AGAIN_S)
        self._until = until

    def _keep(self) -> None:
        while not self._done.wait(_LEASE_S / 3):
            with suppress(UserError):  # the next renewal comes before the lease ends
                self.renew()


def _lease_spec(holder: str) -> Manifest:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {"holderIdentity": holder, "leaseDurationSeconds": _LEASE_S, "renewTime": now}


def lease_holder(lease: Manifest) -> str:
    """Who holds a lease, dead or alive; empty if nobody does."""
    return (lease.get("spec") or {}).get("holderIdentity") or ""
