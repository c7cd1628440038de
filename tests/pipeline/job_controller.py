"""A stand-in for the Kubernetes side of an Indexed Job: its pods are processes here.

It stores objects as `argo.api_server` does, and plays the Job controller and the kubelet:
pods are created and replaced, exit codes go through the Job's podFailurePolicy, deletion
sends SIGTERM. No image, no network of its own, no quota.
"""

import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import yaml
from argo.api_server import KINDS, Answer, ApiServer, kubeconfig

UNPULLED = {
    "phase": "Pending",
    "containerStatuses": [
        {
            "name": "training",
            "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}},
        }
    ],
}
JOBS = ("batch/v1", "default", "jobs")
PODS = ("v1", "default", "pods")
INDEX = "batch.kubernetes.io/job-completion-index"


class JobController(ApiServer):
    """`folder` holds each pod's disk; `variables` is what the image's environment has."""

    kinds = KINDS | {
        "batch/v1": {"Job": "jobs"},
        "networking.k8s.io/v1": {"NetworkPolicy": "networkpolicies"},
    }

    def __init__(self, folder: Path, **variables: str) -> None:
        super().__init__()
        self.folder, self.variables, self.port = folder, variables, free_port()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.disrupted: set[str] = set()
        self.created: list[str] = []
        """names of all pods that ever were"""
        self._stopped = threading.Event()
        self._loops = [
            threading.Thread(target=each) for each in (self.serve_forever, self._reconcile)
        ]
        for each in self._loops:
            each.start()

    def stop(self) -> None:
        self._stopped.set()
        self.shutdown()
        for each in self._loops:
            each.join()
        for process in self.processes.values():
            _kill(process)
        self.server_close()

    def kubeconfig(self) -> str:
        host, port = self.server_address[:2]
        return yaml.safe_dump(kubeconfig(f"http://{host}:{port}"))

    def pods(self) -> list[dict[str, Any]]:
        with self.lock:
            return [deepcopy(each) for key, each in self.objects.items() if key[:3] == PODS]

    def preempt(self, index: int) -> None:
        """As a scheduler does for a more important pod: DisruptionTarget, then SIGTERM."""
        name, process = self._running(index)
        self.disrupted.add(name)
        process.terminate()

    def kill(self, index: int) -> None:
        """As an out-of-memory killer does, with all that runs in the pod."""
        _kill(self._running(index)[1])

    def _running(self, index: int) -> tuple[str, subprocess.Popen[bytes]]:
        with self.lock:
            return next(
                (name, process)
                for name, process in self.processes.items()
                if f"-{index}-" in name and process.poll() is None
            )

    def answer(self, method: str, path: str, kind: str, body: dict[str, Any]) -> Answer:
        parts = urlsplit(path).path.split("/")
        if "forbidden" in parts:
            return 403, {"kind": "Status", "code": 403, "message": "you may not"}
        if parts[-1] == "log":
            log = self.folder / parts[-2] / "log.txt"
            return 200, log.read_text()  # pyrefly: ignore[bad-return]
        key = (*JOBS, parts[-1])
        if method == "DELETE" and key in self.objects:  # it goes when its pods have ended
            assert body.get("propagationPolicy") == "Foreground", body
            with self.lock:
                self.objects[key]["metadata"].setdefault("deletionTimestamp", _now())
            return 200, self.objects[key]
        return super().answer(method, path, kind, body)

    def _store(self, key: tuple[str, str, str, str], body: dict[str, Any]) -> dict[str, Any]:
        body["metadata"].setdefault("uid", f"uid-{self.changes}")
        return super()._store(key, body)

    # The Job controller and the kubelet.

    def _reconcile(self) -> None:
        while not self._stopped.wait(0.05):
            with self.lock:
                self._kubelet()
                for key, job in [item for item in self.objects.items() if item[0][:3] == JOBS]:
                    self._job(key, job)

    def _kubelet(self) -> None:
        for name, process in self.processes.items():
            pod = self.objects.get((*PODS, name))
            if pod is None or pod["status"]["phase"] != "Running" or process.poll() is None:
                continue
            words = self.folder / name / "termination-log"
            ended = {
                "exitCode": process.returncode if process.returncode >= 0 else 137,
                "reason": "Completed" if process.returncode == 0 else "Error",
                "message": words.read_text() if words.exists() else "",
                "finishedAt": _now(),
            }
            phase = "Succeeded" if process.returncode == 0 else "Failed"
            status = {"name": "training", "state": {"terminated": ended}}
            pod["status"] |= {"phase": phase, "containerStatuses": [status]}
            if name in self.disrupted:
                pod["status"]["conditions"] = [{"type": "DisruptionTarget", "status": "True"}]

    def _job(self, key: tuple[str, str, str, str], job: dict[str, Any]) -> None:
        spec, status = job["spec"], job.setdefault("status", {})
        own = [(k, p) for k, p in self.objects.items() if k[:3] == PODS and _owner(p) == key[3]]
        if job["metadata"].get("deletionTimestamp"):
            return self._remove(key, own)
        if status.get("conditions") or spec.get("suspend"):
            return None
        failed = [pod for _, pod in own if pod["status"]["phase"] == "Failed"]
        actions = [_action(spec, pod) for pod in failed]
        if "FailJob" in actions:
            return self._fail(status, own, "PodFailurePolicy")
        if actions.count("Count") > spec["backoffLimit"]:
            return self._fail(status, own, "BackoffLimitExceeded")
        done = {_index(pod) for _, pod in own if pod["status"]["phase"] == "Succeeded"}
        if len(done) == spec["completions"]:
            status["conditions"] = [{"type": "Complete", "status": "True"}]
            return None
        running = {_index(p) for _, p in own if p["status"]["phase"] in ("Running", "Pending")}
        for index in set(range(spec["completions"])) - done - running:
            self._start(key[3], index, spec["template"])
        return None

    def _remove(self, key: tuple[str, str, str, str], own: list[Any]) -> None:
        alive = [(n, p) for (*_, n), _ in own if (p := self.processes.get(n)) and p.poll() is None]
        for name, process in alive:
            if name not in self.disrupted:
                self.disrupted.add(name)
                process.terminate()
        if not alive:
            for each, value in list(self.objects.items()):
                if each == key or _owner(value) == key[3]:
                    del self.objects[each]

    def _fail(self, status: dict[str, Any], own: list[Any], reason: str) -> None:
        condition = {"type": "Failed", "status": "True", "reason": reason, "message": reason}
        status["conditions"] = [condition]
        for (*_, name), _pod in own:
            if (process := self.processes.get(name)) and process.poll() is None:
                process.terminate()

    def _start(self, job: str, index: int, template: dict[str, Any]) -> None:
        name = f"{job}-{index}-{len(self.created)}"
        self.created.append(name)
        (container,) = template["spec"]["containers"]
        if container["image"].startswith("nowhere/"):
            return self._add(name, job, index, template, deepcopy(UNPULLED))
        disk = self.folder / name
        disk.mkdir(parents=True)
        given = {each["name"]: each["value"] for each in container["env"]}
        here = {
            "JOB_COMPLETION_INDEX": str(index),
            "MODELYARD_WORK": str(disk),
            "MODELYARD_ADDRESS": "127.0.0.1",
            "MODELYARD_PORT": str(self.port),
            "MODELYARD_TERMINATION_LOG": str(disk / "termination-log"),
        }
        command = [sys.executable if c == "python" else c for c in container["command"]]
        with (disk / "log.txt").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                command, cwd=disk, env={**os.environ, **given, **self.variables, **here},
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self._add(name, job, index, template, {"phase": "Running"})

    def _add(
        self, name: str, job: str, index: int, template: dict[str, Any], status: dict[str, Any]
    ) -> None:
        metadata = {
            "name": name,
            "labels": template["metadata"]["labels"],
            "annotations": {INDEX: str(index)},
            "ownerReferences": [{"kind": "Job", "name": job}],
        }
        pod = {"kind": "Pod", "apiVersion": "v1", "metadata": metadata}
        self._store((*PODS, name), pod | {"status": status})


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _kill(process: subprocess.Popen[bytes]) -> None:
    try:
        family = [*psutil.Process(process.pid).children(recursive=True), process]
    except psutil.NoSuchProcess:
        family = []
    for each in family:  # the ranks are sessions of their own
        with suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait()


def _action(spec: dict[str, Any], pod: dict[str, Any]) -> str:
    """Of the first rule of the podFailurePolicy that fits a failed pod."""
    code = pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"]
    kinds = {c["type"] for c in pod["status"].get("conditions", [])}
    for rule in spec["podFailurePolicy"]["rules"]:
        if code in rule.get("onExitCodes", {}).get("values", []) or any(
            pattern["type"] in kinds for pattern in rule.get("onPodConditions", [])
        ):
            return rule["action"]
    return "Count"


def _owner(thing: dict[str, Any]) -> str:
    owners = thing["metadata"].get("ownerReferences") or [{"name": ""}]
    return owners[0]["name"]


def _index(pod: dict[str, Any]) -> int:
    return int(pod["metadata"]["annotations"][INDEX])


def _now() -> str:
    return datetime.now(UTC).isoformat() + str(time.monotonic_ns())
