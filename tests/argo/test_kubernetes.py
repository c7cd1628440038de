"""The Kubernetes side: what it sends and how it reads the answers; all of it on a cluster."""

import copy
import os
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from argo.api_server import LOCATION, stand_in
from argo.schemas import check
from argo.targets import TARGET
from support import run

from modelyard.delivery.cluster import client as api_client
from modelyard.delivery.cluster import lease as lock
from modelyard.delivery.cluster.client import Cluster
from modelyard.delivery.cluster.lease import _LEASE, lease_holder
from modelyard.delivery.cluster.ports import kubernetes_ports
from modelyard.delivery.cluster.record import _CONFIG_MAP, ConfigMapRecord, record_name, releases_of
from modelyard.delivery.cluster.router import (
    _ROUTE,
    GatewayRouter,
    route_of,
    route_problem,
    serving_of,
)
from modelyard.delivery.cluster.runtime import _DEPLOYMENT, DeploymentRuntime, health_of, image_of
from modelyard.delivery.cluster.workflow import approval_is_due, is_approved
from modelyard.delivery.manifests import objects
from modelyard.delivery.manifests.objects import Target
from modelyard.delivery.policy import Kubernetes
from modelyard.delivery.ports import LockLost, NoAnswer, Routes
from modelyard.documents import ReleaseEvent, UserError


def event(sequence: int, **changes: Any) -> ReleaseEvent:
    fields = {"time": 1.0, "release": "0001-v2", "candidate": 2, "stable": 1, "phase": "canary"}
    return ReleaseEvent.model_validate(fields | {"weight": 5, "sequence": sequence} | changes)


@pytest.mark.parametrize(
    ("routes", "weights", "mirror"),
    [
        (Routes(stable=None, candidate=2, weight=100), {2: 100}, False),
        (Routes(stable=1), {1: 100}, False),
        (Routes(stable=1, candidate=2, weight=0), {1: 100}, False),
        (Routes(stable=1, candidate=2, mirror=True), {1: 100, 2: 0}, True),
        (Routes(stable=1, candidate=2, weight=25), {1: 75, 2: 25}, False),
        (Routes(stable=1, candidate=2, weight=100), {1: 0, 2: 100}, False),
    ],
)
def test_route(routes: Routes, weights: dict[int, int], mirror: bool) -> None:
    route = route_of(TARGET, routes)
    assert route is not None
    check(route)
    rule = route["spec"]["rules"][0]
    given = {backend["name"]: backend["weight"] for backend in rule["backendRefs"]}
    assert given == {TARGET.name(version): weight for version, weight in weights.items()}
    assert ("filters" in rule) is mirror


def test_no_route_to_nobody() -> None:
    """Before the first release, and after it was rolled back."""
    assert route_of(TARGET, Routes(stable=None)) is None


def test_only_the_desired_version_has_the_digest() -> None:
    assert TARGET.image_of(2).endswith("@sha256:" + "0" * 64)
    assert TARGET.image_of(1) == "ghcr.io/acme/flight-delay:1"


ACCEPTED: dict[str, Any] = {
    "metadata": {"generation": 3},
    "status": {
        "parents": [
            {
                "conditions": [
                    {"type": "Accepted", "status": "True", "observedGeneration": 3},
                    {"type": "ResolvedRefs", "status": "True", "observedGeneration": 3},
                ]
            }
        ]
    },
}


def test_route_is_live_when_the_gateway_says_so_of_this_generation() -> None:
    assert route_problem(ACCEPTED) == ""
    old = copy.deepcopy(ACCEPTED)
    old["metadata"]["generation"] = 4
    assert "has not seen" in route_problem(old)
    unresolved = copy.deepcopy(ACCEPTED)
    unresolved["status"]["parents"][0]["conditions"][1] |= {
        "status": "False",
        "reason": "BackendNotFound",
    }
    assert "BackendNotFound" in route_problem(unresolved)
    assert route_problem({"metadata": {"generation": 1}}) == "no Gateway has taken it"
    assert route_problem(None) == "no Gateway has taken it"


def deployed(replicas: int = 2, **status: Any) -> dict[str, Any]:
    return {
        "metadata": {"generation": 1},
        "spec": {"replicas": replicas},
        "status": {"observedGeneration": 1} | status,
    }


def available(pods: int) -> dict[str, int]:
    return dict.fromkeys(("updatedReplicas", "readyReplicas", "availableReplicas"), pods)


def waiting(reason: str) -> dict[str, Any]:
    state = {"waiting": {"reason": reason, "message": "no such image"}}
    return {"metadata": {"name": "pod"}, "status": {"containerStatuses": [{"state": state}]}}


STUCK = {
    "type": "Progressing",
    "status": "False",
    "reason": "ProgressDeadlineExceeded",
    "message": "too long",
}


@pytest.mark.parametrize(
    ("deployment", "pods", "status", "ready"),
    [
        (None, [], "absent", 0),
        (deployed(), [], "starting", 0),
        (deployed(**available(1)), [], "starting", 1),
        (deployed(**available(2)), [], "ready", 2),
        (deployed(5, **available(3)), [], "ready", 3),
        (deployed(**available(2), observedGeneration=0), [], "starting", 2),
        (deployed(1, **available(1)), [], "ready", 1),
        (deployed(0, **available(0)), [], "starting", 0),
        # of an older template, such as another digest
        (deployed(readyReplicas=2, availableReplicas=2), [], "starting", 2),
        (deployed(), [waiting("ContainerCreating")], "starting", 0),
        (deployed(), [waiting("ImagePullBackOff")], "failed", 0),
        (deployed(), [waiting("CrashLoopBackOff")], "failed", 0),
        (deployed(conditions=[STUCK]), [], "failed", 0),
        # one pod in trouble is not the end of a version whose others serve
        (deployed(**available(1)), [waiting("CrashLoopBackOff")], "starting", 1),
        (deployed(**available(1), conditions=[STUCK]), [], "starting", 1),
        (deployed(5, **available(2)), [waiting("ImagePullBackOff")], "ready", 2),
    ],
)
def test_health(
    deployment: dict[str, Any] | None, pods: list[Any], status: str, ready: int
) -> None:
    found = health_of(deployment, pods, replicas=2)
    assert (found.status, found.ready) == (status, ready)
    assert found.silent == (ready == 0) and found.answers == (ready > 0)


def test_health_names_the_pod_in_trouble() -> None:
    deployment = deployed(**available(1))
    found = health_of(deployment, [waiting("CrashLoopBackOff")], replicas=2)
    assert found.detail == "1 of 2 pods available; pod: CrashLoopBackOff: no such image"


def test_record_of_config_maps() -> None:
    events = [event(n) for n in range(300)]
    maps: list[dict[str, Any]] = []
    for start in (0, 200):
        name = record_name("flight-delay", "0001-v2", start // 200)
        data = {f"{e.sequence:06d}": e.model_dump_json() for e in events[start : start + 200]}
        maps.append({"metadata": {"name": name}, "data": data})
    assert [m["metadata"]["name"] for m in maps] == [
        "flight-delay-release-0001-v2-0", "flight-delay-release-0001-v2-1",
    ]  # fmt: skip
    assert releases_of(maps[::-1]) == [events]

    last = maps[-1]["data"]
    last["000007"] = events[7].model_dump_json()
    with pytest.raises(UserError, match="release 0001-v2: an event is in its ConfigMaps twice"):
        releases_of(maps)
    del last["000007"], last["000250"]
    with pytest.raises(UserError, match="release 0001-v2: event 250 is missing"):
        releases_of(maps)
    last["000250"] = "{}"
    with pytest.raises(UserError, match="000250 is no release event"):
        releases_of(maps)


def test_record_name_is_a_kubernetes_name() -> None:
    name = record_name("flight-delay", "2026-01-02T03:04:05Z_v2", 0)
    assert name == "flight-delay-release-2026-01-02t03-04-05z-v2-0"


def test_a_record_of_large_events_fits_into_config_maps(cluster: Cluster) -> None:
    """1 MiB is what a ConfigMap takes; verdicts and histograms make an event some ten KiB."""
    record = ConfigMapRecord(cluster, _in(cluster))
    events = [event(n, verdicts=[{"gate": "errors", "text": "x" * 60_000}]) for n in range(12)]
    for each in events[:7]:
        record.append(each)
    anew = ConfigMapRecord(cluster, _in(cluster))  # after a crash
    for each in [events[6], *events[7:]]:
        anew.append(each)
    assert anew.releases() == [events]
    maps = cluster.list(_CONFIG_MAP, anew._labels)
    sizes = [sum(map(len, each["data"].values())) for each in maps]
    assert len(sizes) == 3 and max(sizes) < 2**19
    with pytest.raises(UserError, match="event 12 of release 0001-v2 has 9"):
        anew.append(event(12, reason="x" * 900_000))


def workflow(phase: str, *approve: str) -> dict[str, Any]:
    nodes = [{"displayName": "approve", "phase": each} for each in approve]
    nodes.append({"displayName": "watch", "phase": "Running"})
    return {"status": {"phase": phase, "nodes": {str(n): each for n, each in enumerate(nodes)}}}


@pytest.mark.parametrize(
    ("found", "due"),
    [
        (workflow("Running", "Running"), True),
        (workflow("Running"), True),  # the suspended node is not there yet
        (workflow("Running", "Succeeded"), False),  # argo resume
        (workflow("Running", "Failed"), False),  # argo stop --node-field-selector
        (workflow("Failed", "Running"), False),
        (None, False),
    ],
)
def test_an_approval_is_waited_for(found: dict[str, Any] | None, due: bool) -> None:
    assert approval_is_due(found, "approve") is due


@pytest.mark.parametrize(
    ("changes", "approved"),
    [
        ({}, True),
        ({"phase": "Running"}, False),
        ({"phase": "Failed"}, False),
        ({"phase": "Skipped"}, False),
        ({"displayName": "watch"}, False),
        ({"type": "Pod"}, False),
    ],
)
def test_an_approval_is_a_node_that_was_resumed(changes: dict[str, str], approved: bool) -> None:
    node = {"displayName": "approve", "type": "Suspend", "phase": "Succeeded"} | changes
    found = {"status": {"phase": "Running", "nodes": {"1": node}}}
    assert is_approved(found, "approve") is approved
    assert is_approved(None, "approve") is False
    assert is_approved({"status": {}}, "approve") is False


def test_predictions_gate_is_refused() -> None:
    environment = Kubernetes(platform="kubernetes", namespace="p", host="a.example.com")
    with pytest.raises(UserError, match="environments.production: the predictions gate"):
        kubernetes_ports(TARGET, environment)


def test_no_cluster(tmp_path: Path) -> None:
    """In a process of its own: the client reads KUBECONFIG once."""
    code = "from modelyard.delivery.cluster.client import Cluster; Cluster('default')"
    printed = run(sys.executable, "-c", code, cwd=tmp_path, check=False, KUBECONFIG="none")
    assert "UserError: no cluster: " in printed, printed


KUBECONFIG = "MODELYARD_TEST_KUBECONFIG"
"""of a real cluster; KUBECONFIG is not looked at: people export it for production"""
needs_cluster = pytest.mark.skipif(
    KUBECONFIG not in os.environ, reason=f"needs a real cluster: set {KUBECONFIG}"
)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A namespace of its own on a real cluster, if one is given, else on a stand-in for one."""
    if KUBECONFIG in os.environ:
        from kubernetes import client, config

        monkeypatch.setattr(LOCATION, os.environ[KUBECONFIG])
        config.load_kube_config()
        name = f"modelyard-test-{uuid.uuid4().hex[:8]}"
        core = client.CoreV1Api()
        core.create_namespace({"metadata": {"name": name}})
        yield Cluster(name)
        core.delete_namespace(name)
        return
    with stand_in(tmp_path):
        yield Cluster("test")


def test_record_and_lock(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_LEASE_S", 9)
    record = ConfigMapRecord(cluster, _in(cluster))
    with record.lock():
        for _ in range(2):  # a step that is run again
            for number in (0, 1):
                record.append(event(number))
        other = ConfigMapRecord(cluster, _in(cluster))
        with pytest.raises(UserError, match="is releasing in namespace"), other.lock():
            pass
    with record.lock():
        pass
    assert [[each.sequence for each in release] for release in record.releases()] == [[0, 1]]
    with pytest.raises(UserError, match="written by another controller"):
        record.append(event(1, weight=25))


@pytest.mark.parametrize(
    "skew",
    [pytest.param(-3600, marks=pytest.mark.slow), 0, pytest.param(3600, marks=pytest.mark.slow)],
)
def test_a_lease_of_a_dead_pod_is_taken_once_it_is_not_renewed(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, skew: int
) -> None:
    """Whatever the dead pod's clock said. A live one renews it, as in `test_record_and_lock`."""
    monkeypatch.setattr(lock, "_LEASE_S", 3)
    record, name = ConfigMapRecord(cluster, _in(cluster)), objects.RELEASE
    then = datetime.now(UTC) + timedelta(seconds=skew)
    spec = {
        "holderIdentity": "dead-pod",
        "leaseDurationSeconds": 60,
        "renewTime": then.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
    }
    lease = {"apiVersion": _LEASE[0], "kind": "Lease", "metadata": {"name": name}}
    assert cluster.create(lease | {"spec": spec})
    with record.lock():
        held = cluster.get(_LEASE, name)
        assert record._lease and held and held["spec"]["holderIdentity"] == record._lease.holder
        assert held["metadata"]["name"] == name
    let_go = cluster.get(_LEASE, name)
    assert let_go is not None and lease_holder(let_go) == ""


def test_a_controller_that_is_ended_while_it_takes_the_lease_lets_it_go(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = cluster.create

    def ended(manifest: dict[str, Any]) -> bool:
        assert create(manifest)
        raise SystemExit(143)

    monkeypatch.setattr(cluster, "create", ended)
    with pytest.raises(SystemExit), ConfigMapRecord(cluster, _in(cluster)).lock():
        pass
    found = cluster.get(_LEASE, objects.RELEASE)
    assert found is not None and lease_holder(found) == ""


def test_a_lease_that_was_taken_is_not_taken_back(cluster: Cluster) -> None:
    """As after a long pause: it ran out, and another controller is at work."""
    record = ConfigMapRecord(cluster, _in(cluster))
    with record.lock():
        record.check()
        lease = record._lease
        assert lease is not None
        name = objects.RELEASE
        present = cluster.get(_LEASE, name)
        assert present is not None
        present["spec"]["holderIdentity"] = "other"
        assert cluster.replace(present)
        lease.renew()
        with pytest.raises(LockLost, match="was lost to another controller"):
            record.check()
    after = cluster.get(_LEASE, name)
    assert after is not None and after["spec"]["holderIdentity"] == "other"


def test_a_lease_that_cant_be_renewed_ends(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And whoever held it writes nothing more, whatever it is about to do."""
    monkeypatch.setattr(lock, "_LEASE_S", 1)
    monkeypatch.setattr(cluster, "replace", refuse)
    record = ConfigMapRecord(cluster, _in(cluster))
    record.append(event(0))
    with record.lock():
        end = time.monotonic() + 20
        with pytest.raises(LockLost, match="could not be renewed"):
            while time.monotonic() < end:
                record.check()
                time.sleep(0.05)
        target = _in(cluster)
        for write in (
            lambda: cluster.apply(objects.service(target, 2)),
            lambda: cluster.create(objects.service(target, 2)),
            lambda: cluster.delete(objects.service(target, 2)),
            lambda: record.append(event(0, release="0002-v2")),
        ):
            with pytest.raises(LockLost):
                write()
        assert len(record.releases()) == 1, "reading is allowed"
    cluster.apply(objects.service(target, 2))


@pytest.mark.parametrize("seconds", [0, 0.2, -1])
def test_a_lease_of_less_than_a_second_is_refused(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    monkeypatch.setattr(lock, "_LEASE_S", seconds)
    record = ConfigMapRecord(cluster, _in(cluster))
    with pytest.raises(UserError, match="can't create Lease"), record.lock():
        pass


def refuse(manifest: dict[str, Any]) -> bool:
    raise UserError("the API server does not answer")


def test_two_writers_of_a_record_do_not_lose_each_others_events(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second writes between the first's look and its own write."""
    first, second = (ConfigMapRecord(cluster, _in(cluster)) for _ in range(2))
    first.append(event(0))
    get = cluster.get

    def get_then_lose_the_race(*arguments: Any) -> Any:
        present = get(*arguments)
        monkeypatch.setattr(cluster, "get", get)
        second.append(event(1, weight=25))
        return present

    monkeypatch.setattr(cluster, "get", get_then_lose_the_race)
    with pytest.raises(UserError, match="written by another controller"):
        first.append(event(1))
    assert [each.weight for each in first.releases()[0]] == [5, 25]


def test_what_is_broken_is_set_aside_and_kept(cluster: Cluster) -> None:
    record = ConfigMapRecord(cluster, _in(cluster))
    ends = {"phase": "done", "decision": "held"}
    for release in ("0001-v2", "0002-v2", "0003-v2", "0004-v2"):
        for number in (0, 1):
            done = ends if number and release != "0004-v2" else {}
            record.append(event(number, release=release, **done))
    kind = _CONFIG_MAP
    edited = cluster.get(kind, record_name("flight-delay", "0002-v2", 0))
    assert edited is not None
    del edited["data"]["000000"]
    assert cluster.replace(edited)
    good = record_name("flight-delay", "0003-v2", 0)
    twice = cluster.get(kind, good)
    assert twice is not None
    twice["metadata"] = {"name": f"{good}-copy", "labels": twice["metadata"]["labels"]}
    assert cluster.create(twice)
    with pytest.raises(UserError, match="0002-v2: event 0 is missing"):
        record.releases()

    def sound(events: list[ReleaseEvent]) -> bool:
        return events[-1].phase == "done"

    aside = record.set_aside(sound)
    names = [
        record_name("flight-delay", "0002-v2", 0),
        f"{good}-copy",
        record_name("flight-delay", "0004-v2", 0),
    ]
    assert aside == [f"ConfigMap {name}" for name in names]
    assert [each[0].release for each in record.releases()] == ["0001-v2", "0003-v2"]
    kept = cluster.get(kind, names[0])
    assert kept is not None and kept["data"] == edited["data"]
    assert record.set_aside(sound) == []


def test_a_record_that_is_deleted_meanwhile_is_not_begun_in_its_middle(
    cluster: Cluster,
) -> None:
    record = ConfigMapRecord(cluster, _in(cluster))
    for number in (0, 1):
        record.append(event(number))
    name = record_name("flight-delay", "0001-v2", 0)
    cluster.delete({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}})
    with pytest.raises(UserError, match=f"{name} of the record is gone"):
        record.append(event(2))
    assert record.releases() == []


@pytest.mark.parametrize(
    ("routes", "serving"),
    [
        (Routes(stable=1), {1: 100}),
        (Routes(stable=1, candidate=2, mirror=True), {1: 100}),
        (Routes(stable=1, candidate=2, weight=25), {1: 75, 2: 25}),
        (Routes(stable=1, candidate=2, weight=100), {2: 100}),
        (Routes(stable=None, candidate=2, weight=100), {2: 100}),
    ],
)
def test_who_serves_by_the_route(routes: Routes, serving: dict[int, int]) -> None:
    assert serving_of(TARGET, route_of(TARGET, routes)) == serving


def test_who_serves_by_another_route() -> None:
    """One that somebody has edited: a page for maintenance is no version."""
    assert serving_of(TARGET, None) == {}
    route = route_of(TARGET, Routes(stable=1))
    assert route is not None
    for backends, serving in [
        ([{"name": "maintenance", "port": 80}], {}),
        ([{"name": "other-model-v3", "port": 80}], {}),
        ([{"name": "flight-delay-v3", "port": 80}], {3: 1}),
        ([{"name": "flight-delay-v3", "port": 80, "weight": 0}], {}),
    ]:
        route["spec"]["rules"][0]["backendRefs"] = backends
        assert serving_of(TARGET, route) == serving


@pytest.fixture
def outage(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator["Outage"]:
    """The API server is away for some requests."""
    for module in (api_client, lock):
        monkeypatch.setattr(module, "AGAIN_S", 0.0)
    yield Outage(cluster, monkeypatch)


class Outage:
    def __init__(self, cluster: Cluster, patched: pytest.MonkeyPatch) -> None:
        self.away = 0
        """requests that get no answer from now on"""
        self.lost = False
        """whether they are carried out all the same; then it is writes alone"""
        request = httpx.Client.request

        def ask(client: httpx.Client, method: str, *rest: Any, **options: Any) -> httpx.Response:
            if self.away == 0 or (self.lost and method == "GET"):
                return request(client, method, *rest, **options)
            self.away -= 1
            if self.lost:
                request(client, method, *rest, **options)
            raise httpx.ConnectError("connection refused")

        patched.setattr(httpx.Client, "request", ask)
        cluster.get(_CONFIG_MAP, "none")


@pytest.mark.parametrize("lost", [False, True], ids=["refused", "answers lost"])
def test_an_api_server_that_is_away_is_asked_again(
    cluster: Cluster, outage: Outage, lost: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """A request whose answer is lost is carried out twice, and that does no harm."""
    outage.lost = lost
    record, target = ConfigMapRecord(cluster, _in(cluster)), _in(cluster)
    outage.away = 1
    with record.lock():
        for number in range(3):
            outage.away = 1
            record.append(event(number))
        for act in (
            lambda: cluster.apply(objects.service(target, 2)),
            lambda: cluster.list(("v1", "Service"), objects.labels(target)),
            lambda: cluster.delete(objects.service(target, 2)),
        ):
            outage.away = 3
            act()
        outage.away = 0
    assert [[each.sequence for each in release] for release in record.releases()] == [[0, 1, 2]]
    assert cluster.get(("v1", "Service"), target.name(2)) is None
    said = capsys.readouterr().err
    assert "the API server does not answer" in said and "asking again for up to 90 s" in said


def test_an_api_server_that_stays_away(
    cluster: Cluster, outage: Outage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "_patience", 0.2)
    outage.away = -1
    with pytest.raises(NoAnswer, match="can't get ConfigMap a: the API server does not answer"):
        cluster.get(_CONFIG_MAP, "a")


def test_an_outage_that_is_longer_than_the_lease_ends_in_no_write(
    cluster: Cluster, outage: Outage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "_LEASE_S", 1)
    record = ConfigMapRecord(cluster, _in(cluster))
    record.append(event(0))
    with record.lock():
        outage.away = -1
        with pytest.raises(LockLost, match="could not be renewed"):
            record.append(event(1))
        outage.away = 0
    assert [len(each) for each in record.releases()] == [1]


def test_versions(cluster: Cluster) -> None:
    runtime = DeploymentRuntime(cluster, _in(cluster))
    with pytest.raises(UserError, match="has no ServiceAccount"):
        runtime.check(2)
    cluster.apply(objects.service_account(_in(cluster), "flight-delay", token=False))
    runtime.check(2)
    assert runtime.health(2).status == "absent"
    for _ in range(2):
        runtime.deploy(2)
    assert runtime.health(2).status == "starting"
    assert runtime.versions() == {2}
    for _ in range(2):
        runtime.stop(2)
    assert runtime.versions() == set()


@pytest.fixture
def router(cluster: Cluster) -> GatewayRouter:
    """Of a model with versions 1 and 2, at a Gateway of the cluster."""
    for version in (1, 2):
        cluster.apply(objects.service(_in(cluster), version))
    return GatewayRouter(cluster, replace(_in(cluster), gateway=gateway()))


def gateway() -> str:
    """A Gateway that takes routes of any namespace; the stand-in takes each route."""
    if KUBECONFIG not in os.environ:
        return "edge/public"
    from kubernetes import client

    found: Any = client.CustomObjectsApi().list_cluster_custom_object(
        "gateway.networking.k8s.io", "v1", "gateways"
    )
    for each in found["items"]:
        routes = [listener.get("allowedRoutes") or {} for listener in each["spec"]["listeners"]]
        if any((route.get("namespaces") or {}).get("from") == "All" for route in routes):
            return f"{each['metadata']['namespace']}/{each['metadata']['name']}"
    pytest.skip("the cluster has no Gateway that takes routes of any namespace")


def test_route_goes_live_and_away(cluster: Cluster, router: GatewayRouter) -> None:
    kind = _ROUTE
    router.route(Routes(stable=1, candidate=2, weight=25))
    route = cluster.get(kind, "flight-delay")
    assert route is not None
    backends = route["spec"]["rules"][0]["backendRefs"]
    assert [backend["weight"] for backend in backends] == [75, 25]
    for _ in range(2):
        router.route(Routes(stable=None))
    assert cluster.get(kind, "flight-delay") is None


def test_a_route_that_is_edited_by_hand(
    cluster: Cluster,
    router: GatewayRouter,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The release says so and goes no further. Only the way back to stable is taken anyway."""
    kind = _ROUTE
    router.route(Routes(stable=1, candidate=2, weight=5))
    edited = cluster.get(kind, "flight-delay")
    assert edited is not None
    edited["spec"]["rules"][0]["backendRefs"][1]["weight"] = 50
    assert cluster.replace(edited)
    with pytest.raises(UserError, match='conflicts? with ".+only the release should'):
        router.route(Routes(stable=1, candidate=2, weight=25))
    route = cluster.get(kind, "flight-delay")
    assert route is not None and route["spec"] == edited["spec"], "nothing was changed"
    router.route(Routes(stable=1, candidate=2, weight=0))
    assert "all traffic goes to stable all the same" in capsys.readouterr().err
    route = cluster.get(kind, "flight-delay")
    assert route is not None
    assert [b["name"] for b in route["spec"]["rules"][0]["backendRefs"]] == ["flight-delay-v1"]


def test_an_object_that_was_changed_meanwhile_is_read_again(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by the status that a Gateway or the Deployment's controller writes."""
    manifest = objects.service(_in(cluster), 2)
    kind = ("v1", "Service")
    cluster.apply(manifest)
    get, changes = cluster.get, 0

    def get_then_change(*arguments: Any) -> Any:
        nonlocal changes
        present = get(*arguments)
        if changes > 0:
            changes -= 1
            touched = get(*arguments)
            assert touched is not None
            touched["metadata"]["labels"]["touched"] = str(changes)
            assert cluster.replace(touched)
        return present

    monkeypatch.setattr(cluster, "get", get_then_change)
    changes = 2
    cluster.apply(manifest)
    changes = 100
    with pytest.raises(UserError, match="can't apply Service flight-delay-v2: something else"):
        cluster.apply(manifest)
    assert get(kind, "flight-delay-v2") is not None


def test_a_refusal_is_one_message(cluster: Cluster) -> None:
    with pytest.raises(UserError, match="can't get Route flight-delay: the cluster has no such"):
        cluster.get(("example.com/v1", "Route"), "flight-delay")


DIGESTS = ["sha256:" + str(n) * 64 for n in range(3)]


def image(cluster: Cluster, version: int) -> str | None:
    return image_of(cluster.get(_DEPLOYMENT, f"flight-delay-v{version}"))


def test_a_version_is_deployed_again_as_the_image_that_it_was(cluster: Cluster) -> None:
    """The record knows the digest of a version that nobody asks for now; a tag may have moved."""
    record = ConfigMapRecord(cluster, _in(cluster))
    for number, digest in enumerate([DIGESTS[1], None]):  # the newest that is known
        record.append(event(0, release=f"000{number}-v1", candidate=1, digest=digest))
    environment = Kubernetes(
        platform="kubernetes",
        namespace=cluster.namespace,
        host="a.example.com",
        policy={"gates": {"predictions": None}},
    )
    runtime = kubernetes_ports(_in(cluster), environment).runtime
    for version in (1, 3):
        runtime.deploy(version)
    assert image(cluster, 1) == f"registry.invalid/flight-delay@{DIGESTS[1]}"
    assert image(cluster, 3) == "registry.invalid/flight-delay:3", "no digest is known"


def test_a_deployment_keeps_its_image(cluster: Cluster) -> None:
    for digest in DIGESTS[1:]:
        target = replace(_in(cluster), digest=digest)
        DeploymentRuntime(cluster, target).deploy(2)
        assert image(cluster, 2) == f"registry.invalid/flight-delay@{DIGESTS[1]}"


@needs_cluster
def test_an_image_that_is_not_there(cluster: Cluster) -> None:
    runtime = DeploymentRuntime(cluster, _in(cluster))
    cluster.apply(objects.service_account(_in(cluster), "flight-delay", token=False))
    runtime.deploy(2)
    end = time.monotonic() + 120
    while (health := runtime.health(2)).status != "failed":
        assert time.monotonic() < end, health
        time.sleep(1)


def _in(cluster: Cluster) -> Target:
    return Target(
        model="flight-delay",
        environment="test",
        namespace=cluster.namespace,
        image="registry.invalid/flight-delay",
        version=2,
        host="flight-delay.example.com",
        gateway="edge/public",
        prometheus="http://prometheus.monitoring.svc:9090",
        replicas=1,
    )
