"""Releases by the Kubernetes side of all four ports at once.

The API server is a stand-in; Prometheus is real and scrapes one exporter a version, which
answers what the HTTPRoute in the API server sends to it.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from argo.api_server import ApiServer, stand_in
from argo.prometheus_server import BINARY, Pod, free_port, server, until
from support import commit, run

from modelyard.cli import script
from modelyard.delivery.cluster.client import Cluster
from modelyard.delivery.cluster.ports import kubernetes_ports
from modelyard.delivery.cluster.prometheus import Prometheus
from modelyard.delivery.manifests import objects
from modelyard.delivery.manifests.objects import Target
from modelyard.delivery.policy import Kubernetes, Policy
from modelyard.delivery.release.controller import Controller
from modelyard.delivery.release.state import State
from modelyard.documents import ReleaseEvent, UserError

pytestmark = [
    pytest.mark.skipif(BINARY is None, reason="no prometheus here (apt-get install prometheus)"),
    pytest.mark.xdist_group("prometheus"),
]

CANARY: dict[str, Any] = {
    "steps": [20, 50],
    "min_requests": 200,
    "min_duration": "200ms",
    "max_duration": "60s",
}
POLICY: dict[str, Any] = {
    "interval": "200ms",
    "shadow": {"min_requests": 200, "max_duration": "60s"},
    "canary": CANARY,
    "gates": {"errors": {"margin": 0.05}, "latency": None, "predictions": None},
}
ROUTE = ("gateway.networking.k8s.io/v1", "production", "httproutes", "flight-delay")


@dataclass
class Place:
    """A cluster, its users and its Prometheus."""

    api: ApiServer
    kubeconfig: Path
    pods: dict[str, Pod]
    prometheus: str
    bad: dict[str, float] = field(default_factory=dict)
    """version → share of its answers that are 500"""
    weights: list[dict[str, int]] = field(default_factory=list)
    """of each HTTPRoute that there was, by version"""

    def target(self, version: int) -> Target:
        return Target(
            model="flight-delay",
            environment="production",
            namespace="production",
            image="ghcr.io/acme/flight-delay",
            version=version,
            host="flight-delay.example.com",
            gateway="edge/public",
            prometheus=self.prometheus,
        )

    def environment(self) -> dict[str, Any]:
        return {
            "platform": "kubernetes",
            "namespace": "production",
            "host": "flight-delay.example.com",
            "prometheus": self.prometheus,
            "probe": False,  # there is no Gateway that could answer
            "policy": POLICY | {"interval": "5s"},
        }

    def controller(self, version: int, **policy: Any) -> Controller:
        environment = Kubernetes.model_validate(self.environment())
        ports = kubernetes_ports(self.target(version), environment)
        # This Prometheus scrapes more often than a cluster's.
        return Controller(ports, Policy.model_validate(POLICY | policy))

    def release(self, version: int, **policy: Any) -> State:
        controller = self.controller(version, **policy)
        with controller.ports.record.lock():
            return controller.run(controller.open(version))

    def users(self, done: threading.Event) -> None:
        """2,000 requests a second, spread as the HTTPRoute says."""
        while not done.wait(0.05):
            with self.api.lock:
                route = json.loads(json.dumps(self.api.objects.get(ROUTE)))
            if route is None:
                continue
            rule = route["spec"]["rules"][0]
            weights = {b["name"].rpartition("-v")[2]: b["weight"] for b in rule["backendRefs"]}
            if not self.weights or self.weights[-1] != weights:
                self.weights.append(weights)
            for mirror in rule.get("filters", []):
                name = mirror["requestMirror"]["backendRef"]["name"]
                self.answer(name.rpartition("-v")[2], 100)
            for version, weight in weights.items():
                self.answer(version, weight)

    def answer(self, version: str, requests: int) -> None:
        failed = round(requests * self.bad.get(version, 0))
        for code, count in ((500, failed), (200, requests - failed)):
            if count:
                self.pods[version].count(count, code)

    def events(self) -> list[ReleaseEvent]:
        return self.controller(1).ports.record.releases()[-1]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, Pod], str]]:
    """An exporter a version, and the Prometheus that scrapes them."""
    ports = {version: free_port() for version in "123"}
    pods = {version: Pod(port) for version, port in ports.items()}
    with server(tmp_path_factory.mktemp("prometheus"), ports) as url:
        yield pods, url
    for pod in pods.values():
        pod.stop()


@pytest.fixture
def place(watched: tuple[dict[str, Pod], str], tmp_path: Path) -> Iterator[Place]:
    """Version 1 serves already."""
    file = tmp_path / "kubeconfig"
    with stand_in(tmp_path) as api, users(Place(api, file, *watched)) as place:
        api.pods_run = True
        account = objects.service_account(place.target(1), "flight-delay", token=False)
        Cluster("production").apply(account)
        assert place.release(1).decision == "bootstrapped"
        yield place


@contextmanager
def users(place: Place) -> Iterator[Place]:
    done = threading.Event()
    thread = threading.Thread(target=place.users, args=(done,))
    thread.start()
    try:
        yield place
    finally:
        done.set()
        thread.join()


def test_a_good_version_and_a_bad_one(place: Place, tmp_path: Path) -> None:
    assert place.release(2).decision == "promoted", place.events()[-1]
    until(lambda: place.weights[-1] == {"2": 100})
    shares = [weights["2"] for weights in place.weights if "2" in weights]
    assert shares == sorted(shares) and {20, 50, 100} <= set(shares)

    place.bad["3"] = 0.3
    seen = len(place.weights)
    done = place.release(3)
    assert done.decision == "rolled_back" and "errors" in done.reason
    until(lambda: place.weights[-1] == {"2": 100})
    assert max(w.get("3", 0) for w in place.weights[seen:]) == 0, "no user met it: the shadow did"
    found = {key[3] for key in place.api.objects if key[2] == "deployments"}
    assert found == {"flight-delay-v2"}
    written_back(place, tmp_path / "repo")


def written_back(place: Place, folder: Path) -> None:
    """As the workflow's last node does: with the record in ConfigMaps, and the policy, alone."""
    origin = folder / "origin.git"
    policy = {
        "version": 3,
        "image": "ghcr.io/acme/flight-delay",
        "repository": str(origin),
        "environments": {"production": place.environment()},
    }
    (folder / "argo").mkdir(parents=True)
    (folder / "argo" / "release.yaml").write_text(yaml.safe_dump(policy))
    (folder / "pyproject.toml").write_text('[project]\nname = "flight-delay"\n')
    commit(folder, "Version 3")
    run("git", "clone", "--quiet", "--bare", folder, origin, cwd=folder)
    command = [script(), "release", "write-back", "--env", "production"]
    for said in (
        ": Back to version 2: version 3 was rolled back in production",
        "is there already",
    ):
        assert said in run(*command, cwd=folder, KUBECONFIG=str(place.kubeconfig))
    (branch,) = run(
        "git", "for-each-ref", "--format=%(refname)", "refs/heads/modelyard", cwd=origin
    ).split()
    text = run("git", "show", f"{branch}:argo/release.yaml", cwd=origin)
    assert yaml.safe_load(text) == policy | {"version": 2}


def test_a_harm_budget(place: Place) -> None:
    ramp = {"ramp": {"harm_budget": 500}} | {k: v for k, v in CANARY.items() if k != "steps"}
    assert place.release(2, canary=ramp).decision == "promoted", place.events()[-1]
    until(lambda: place.weights[-1] == {"2": 100})
    shares = [weights["2"] for weights in place.weights if "2" in weights]
    assert shares[-1] == 100 and 0 < max(shares[:-1], default=0) <= 100


def test_a_prometheus_that_ends_advances_nothing(place: Place) -> None:
    """The release waits, says why, and is inconclusive at the end."""
    held = CANARY | {"max_duration": "3s", "on_inconclusive": "hold"}
    controller = place.controller(2, canary=held)
    source = controller.ports.source
    assert isinstance(source, Prometheus)
    with controller.ports.record.lock():
        state = controller.advance(controller.open(2), "canary", 20)
        assert (state.phase, state.weight) == ("canary", 20)
        source._url = f"http://127.0.0.1:{free_port()}"
        done = controller.run(state)
    assert done.decision == "held" and done.weight == 0
    notes = [(event.evidence or {}).get("note", "") for event in place.events()]
    assert any("does not answer" in note for note in notes)
    assert max(event.weight for event in place.events()) == 20


@pytest.mark.slow
def test_an_edited_event_ends_the_next_step(place: Place) -> None:
    """Counts that are made to look better do not give the e-values that the record has."""
    controller = place.controller(2)
    with controller.ports.record.lock():
        controller.advance(controller.open(2), "canary", 20)
    with place.api.lock:
        maps = [o for key, o in place.api.objects.items() if key[2] == "configmaps"]
    found = next(m for m in maps if "v2" in m["metadata"]["name"])
    for key, text in sorted(found["data"].items()):
        event = json.loads(text)
        if event["verdicts"]:
            event["evidence"]["counts"]["candidate"]["requests"] += 5000
            found["data"][key] = json.dumps(event)
            break
    else:
        pytest.fail("no event has verdicts")
    before = place.api.objects[ROUTE]["spec"]
    with pytest.raises(UserError, match="edited|does not follow|do not follow"):
        place.release(2)
    assert place.api.objects[ROUTE]["spec"] == before


def lose_records(place: Place, of: str) -> None:
    with place.api.lock:
        for key in [k for k in place.api.objects if k[2] == "configmaps" and of in k[3]]:
            del place.api.objects[key]


@pytest.mark.slow
def test_a_record_that_is_lost_takes_nothing_down(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    deleted: list[tuple[str, ...]] = []
    delete = place.api._delete
    monkeypatch.setattr(place.api, "_delete", lambda key, body: (
        deleted.append(key[2:]), delete(key, body))[1])  # fmt: skip
    probe = ("httproutes", "flight-delay-probe")  # taken away whether it is there or not
    lose_records(place, "flight-delay")
    assert place.release(2).decision == "promoted"
    adopted, released = place.controller(2).ports.record.releases()
    assert (adopted[-1].decision, adopted[-1].stable) == ("bootstrapped", 1)
    assert "there was no record" in adopted[0].reason and released[-1].stable == 2
    until(lambda: place.weights[-1] == {"2": 100})
    assert all(sum(weights.values()) == 100 for weights in place.weights)

    lose_records(place, "v2")  # what is left says that version 1 is stable
    before = place.api.objects[ROUTE]["spec"]
    with pytest.raises(UserError, match="all users get version 2, but .* version 1 is stable"):
        place.release(3)
    assert place.api.objects[ROUTE]["spec"] == before
    controller = place.controller(2)
    with controller.ports.record.lock():
        assert controller.adopt(2) == []
    assert place.events()[-1].stable == 2
    gone = {each for each in deleted if each != probe}
    assert {kind for kind, _ in gone} == {"deployments", "services", "horizontalpodautoscalers"}
    assert {name for _, name in gone} == {"flight-delay-v1"}, "once version 2 was promoted"


def test_a_record_that_is_lost_in_mid_canary(place: Place) -> None:
    controller = place.controller(2)
    with controller.ports.record.lock():
        controller.advance(controller.open(2), "canary", 20)
        lose_records(place, "flight-delay")
        with pytest.raises(UserError, match=r"version 1 \(80 %\) and version 2 \(20 %\)"):
            controller.open(2)
        assert "now all users get version 1" in controller.go_back(2, "asked for")
    until(lambda: place.weights[-1] == {"1": 100})


def test_a_candidate_is_watched_while_a_person_is_waited_for(place: Place) -> None:
    controller, looks = place.controller(2), iter([True, True, False])
    with controller.ports.record.lock():
        state = controller.advance(controller.open(2), "canary", 50)
        state = controller.watch(state, lambda: next(looks))
        assert (state.phase, state.weight) == ("canary", 50), "approved, and no step ahead"
        place.bad["2"] = 0.5
        looks = iter([True] * 200)
        done = controller.watch(state, lambda: next(looks))
    assert done.decision == "rolled_back" and "errors" in done.reason
    until(lambda: place.weights[-1] == {"1": 100})
