"""A model's repository, and the namespace that it is released to."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from cluster import guide, models
from cluster.cluster import Cluster, Manifest
from cluster.traffic import Traffic
from support import commit, run

ENVIRONMENT = "production"
SCRIPTS = Path(sys.executable).parent
ROUTE = "httproutes.gateway.networking.k8s.io/v1"
WORKFLOW = "workflows.argoproj.io/v1alpha1"
POLICY: dict[str, Any] = {
    "interval": "5s",
    "deploy": {"max_duration": "150s"},
    "shadow": {"min_requests": 60, "max_duration": "5m"},
    "canary": {
        "steps": [25, 50], "min_requests": 60, "min_duration": "3s", "max_duration": "5m",
    },
    "gates": {
        "errors": {"margin": 0.08},
        # Two servers, their Gateway and all of a cluster share this machine's CPUs.
        "latency": {"quantile": 0.5, "ratio": 3, "slack": "250ms"},
        "predictions": None,
        "scores": {"max_shift": 0.4},
    },
}  # fmt: skip
"""the template's gates, with less traffic to wait for"""


class Release:
    """One `modelyard release submit`."""

    def __init__(self, repo: "Repo", version: int) -> None:
        self.repo, self.version, self._printed = repo, version, ""
        words = [SCRIPTS / "modelyard", "release", "submit", "--env", ENVIRONMENT]
        self._process = subprocess.Popen(
            [str(each) for each in words], cwd=repo.folder, env=repo.environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert self._process.stdout
        self._printed = self._process.stdout.readline()
        found = re.match(rf"(\S+) in {repo.namespace} releases version {version}", self._printed)
        assert found, self._printed + self._process.stdout.read()
        self.name = found[1]

    def end(self, seconds: float = 420) -> int:
        """The exit code, once it ended."""
        try:
            printed, _ = self._process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise AssertionError(f"no end of {self.name}:\n{self}") from None
        self._printed += printed
        return self._process.returncode

    @property
    def workflow(self) -> Manifest:
        found = self.repo.cluster.custom(WORKFLOW, self.name, self.repo.namespace)
        assert found is not None, self.name
        return found

    @property
    def phase(self) -> str:
        return self.workflow.get("status", {}).get("phase", "")

    @property
    def seconds(self) -> float:
        """From its submission to its end."""
        metadata, status = self.workflow["metadata"], self.workflow["status"]
        form = "%Y-%m-%dT%H:%M:%SZ"
        ends = (status["finishedAt"], metadata["creationTimestamp"])
        until, since = (time.mktime(time.strptime(each, form)) for each in ends)
        return until - since

    def nodes(self) -> dict[str, str]:
        """Phases of what ran, by the nodes' names."""
        nodes = self.workflow.get("status", {}).get("nodes", {}).values()
        return {
            each["displayName"]: each["phase"]
            for each in nodes
            if each["type"] in ("Retry", "Suspend")
        }

    def pods(self, node: str) -> list[str]:
        """That run for a node of the workflow now."""
        nodes = self.workflow.get("status", {}).get("nodes", {}).values()
        of_node = (each for each in nodes if each["displayName"].startswith(f"{node}("))
        ends = tuple(each["id"].rpartition("-")[2] for each in of_node if each["type"] == "Pod")
        labels = f"workflows.argoproj.io/workflow={self.name}"
        return [
            each["metadata"]["name"]
            for each in self.repo.cluster.objects("pods", self.repo.namespace, labels)
            if each["status"]["phase"] == "Running" and each["metadata"]["name"].endswith(ends)
        ]

    def patch(self, what: Manifest) -> None:
        self.repo.cluster.kubectl(
            "patch", "workflow", self.name, "-n", self.repo.namespace, "--type=merge",
            "-p", json.dumps(what),
        )  # fmt: skip

    def shut_down(self, how: str) -> None:
        """As `argo stop` (Stop) and `argo terminate` (Terminate) do."""
        self.patch({"spec": {"shutdown": how}})

    def resume(self) -> None:
        """As `argo resume --node-field-selector displayName=approve` does."""
        nodes = self.workflow["status"]["nodes"]
        (waiting,) = [
            key for key, each in nodes.items()
            if each["type"] == "Suspend" and each["phase"] == "Running"
        ]  # fmt: skip
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        resumed = {"phase": "Succeeded", "finishedAt": now, "message": "Resumed by: tests"}
        self.patch({"status": {"nodes": {waiting: resumed}}})

    def __repr__(self) -> str:
        """For a test that fails: what was printed, what the pods said, and the record."""
        logs = self.repo.cluster.kubectl(
            "logs", "-n", self.repo.namespace, "-l", f"workflows.argoproj.io/workflow={self.name}",
            "-c", "main", "--prefix", "--tail=60", "--ignore-errors", "--max-log-requests=20",
        )  # fmt: skip
        return "\n".join([self._printed, str(self.nodes()), logs, self.repo.status()])


class Repo:
    """As `copier copy` gives it, with less traffic to wait for; `folder` is committed."""

    def __init__(
        self, cluster: Cluster, folder: Path, namespace: str, image: str, digests: dict[int, str]
    ) -> None:
        self.cluster, self.folder, self.namespace = cluster, folder, namespace
        self.host, self.digests = f"{namespace}.example.com", digests
        self._file = folder / "argo" / "release.yaml"
        policy = yaml.safe_load(self._file.read_text())
        place = policy["environments"][ENVIRONMENT]
        place |= {"namespace": namespace, "host": self.host, "policy": POLICY}
        place |= {"replicas": 1, "max_replicas": 1, "cpu": "100m"}  # some at once, on 2 CPUs
        self._write(policy | {"image": image, "environments": {ENVIRONMENT: place}})

    @property
    def environment(self) -> Mapping[str, str]:
        found = dict(self.cluster.environment)
        return found | {"PATH": f"{SCRIPTS}{os.pathsep}{found['PATH']}"}

    def change(self, **changes: Any) -> None:
        """Of the environment."""
        policy = yaml.safe_load(self._file.read_text())
        policy["environments"][ENVIRONMENT] |= changes
        self._write(policy)

    def ask_for(self, version: int, **changes: Any) -> None:
        """What a release PR merges."""
        policy = yaml.safe_load(self._file.read_text())
        self._write(policy | {"version": version, "digest": self.digests[version]} | changes)
        self.render()
        commit(self.folder, f"Version {version}")

    def apply(self, **changes: Any) -> None:
        """The base objects, by the guide, with changes of the environment."""
        self.change(**changes)
        self.render()
        self.follow("kubectl apply --server-side -f argo/manifests/production")

    def render(self) -> None:
        run(SCRIPTS / "modelyard", "render", cwd=self.folder)

    def _write(self, policy: dict[str, Any]) -> None:
        self._file.write_text(yaml.safe_dump(policy, sort_keys=False))

    def follow(self, beginning: str, folder: Path | None = None) -> str:
        """A command of the guide, in this repository and namespace."""
        known = "flight-delay-production" in guide.command(beginning)
        given = {"flight-delay-production": self.namespace} if known else {}
        return guide.follow(beginning, given, folder or self.folder, self.environment)

    def submit(self) -> Release:
        version = yaml.safe_load(self._file.read_text())["version"]
        return Release(self, version)

    def release(self, version: int) -> Release:
        """Begun."""
        self.ask_for(version)
        return self.submit()

    def released(self, version: int, code: int = 0) -> Release:
        """Ended, with this exit code."""
        release = self.release(version)
        ended = release.end()
        assert ended == code, f"exit code {ended}:\n{release}"
        return release

    def weights(self) -> dict[int, int]:
        """Of the HTTPRoute, by version; none where nobody is served."""
        backends = self._rule().get("backendRefs", [])
        shares = {_version(each): each.get("weight", 1) for each in backends}
        return {version: share for version, share in shares.items() if share}

    def mirrored(self) -> int | None:
        """The version that gets a copy of the requests."""
        filters = self._rule().get("filters", [])
        mirrors = (each["requestMirror"] for each in filters if "requestMirror" in each)
        return next((_version(each["backendRef"]) for each in mirrors), None)

    def _rule(self) -> Manifest:
        """The HTTPRoute's; empty where there is none."""
        route = self.cluster.custom(ROUTE, models.MODEL, self.namespace)
        return route["spec"]["rules"][0] if route else {}

    def reaches(self, phase: str, version: int) -> None:
        """Wait until a version is in `shadow` or `canary`."""
        looks: dict[str, Callable[[], bool]] = {
            "shadow": lambda: self.mirrored() == version,
            "canary": lambda: 0 < self.weights().get(version, 0) < 100,
        }
        self.cluster.eventually(looks[phase], 150)

    def status(self) -> str:
        words = ("release", "status", "--env", ENVIRONMENT)
        return run(SCRIPTS / "modelyard", *words, cwd=self.folder, check=False, **self.environment)

    def events(self) -> list[dict[str, Any]]:
        """The record of all releases, in the order in which it was written."""
        found = []
        for each in self.records():
            found += [json.loads(text) for text in each["data"].values()]
        return sorted(found, key=lambda each: each["time"])

    def records(self) -> list[Manifest]:
        return [
            each
            for each in self.cluster.objects("configmaps", self.namespace)
            if each["metadata"]["name"].startswith(f"{models.MODEL}-release-")
        ]

    def users(self, url: str, rate: float = 30) -> Traffic:
        return Traffic(url, self.host, models.rows(200), rate)


def _version(backend: Manifest) -> int:
    return int(backend["name"].rpartition("-v")[2])
