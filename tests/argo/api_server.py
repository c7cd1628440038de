"""A stand-in for the Kubernetes API: stores objects, runs nothing.

Enough for what the Kubernetes side of the ports sends: get, list by labels,
create, replace by resourceVersion, server-side apply with its owners of fields, delete.
With MODELYARD_TEST_KUBECONFIG set the same tests talk to a real API server instead.
"""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import yaml

LOCATION = "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION"
"""which the client has read from KUBECONFIG once, when it was imported"""

KINDS = {
    "v1": {"ConfigMap": "configmaps", "Pod": "pods", "Service": "services",
           "ServiceAccount": "serviceaccounts"},
    "argoproj.io/v1alpha1": {"Workflow": "workflows"},
    "apps/v1": {"Deployment": "deployments"},
    "autoscaling/v2": {"HorizontalPodAutoscaler": "horizontalpodautoscalers"},
    "coordination.k8s.io/v1": {"Lease": "leases"},
    "gateway.networking.k8s.io/v1": {"Gateway": "gateways", "HTTPRoute": "httproutes"},
}  # fmt: skip
_OBJECT = re.compile(
    r"/apis?/((?:[a-z0-9.]+/)?v\d[a-z0-9]*)/namespaces/([^/]+)/([a-z]+)(?:/([^/]+))?"
)

_PODS = ("updatedReplicas", "readyReplicas", "availableReplicas")

Answer = tuple[int, dict[str, Any]]
Key = tuple[str, str, str, str]
"""group and version, namespace, plural, name"""


class ApiServer(ThreadingHTTPServer):
    """Serves on a free port of 127.0.0.1; `gateway` says whether routes get accepted."""

    daemon_threads = True
    kinds = KINDS

    def __init__(self, gateway: bool = True) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.gateway = gateway
        self.token = ""
        """that a request needs, if any"""
        self.pods_run = False
        """whether Deployments get ready at once"""
        self.forbidden: set[str] = set()
        """kinds in the plural that this account may not touch"""
        self.workflow: dict[str, Any] = {}
        """the status that a submitted workflow has at once"""
        self.objects: dict[Key, dict[str, Any]] = {}
        self.owners: dict[Key, dict[str, str]] = {}
        """field by its path → who wrote it last"""
        self.changes = 0
        self.lock = threading.Lock()

    def answer(self, method: str, path: str, kind: str, body: dict[str, Any]) -> Answer:
        parts = urlsplit(path)
        query = dict(parse_qsl(parts.query))
        match = _OBJECT.fullmatch(parts.path)
        if not match:
            return (200, {}) if parts.path == "/version" else _refusal(404, f"nothing at {path}")
        group, namespace, plural, name = match.groups()
        if plural not in self.kinds.get(group, {}).values():
            return _refusal(404, f"no {plural} in {group}")
        if plural in self.forbidden:
            return _refusal(403, f'{plural} "{name}" is forbidden')
        with self.lock:
            if method == "GET" and not name:
                return 200, self._list((group, namespace, plural), query)
            key = (group, namespace, plural, name or _name(body["metadata"]))
            if method == "PATCH":
                assert kind == "application/apply-patch+yaml", kind
                return self._patch(
                    key, body, query["fieldManager"], query["force"].lower() == "true"
                )
            if problem := _invalid(plural, body):
                return _refusal(422, problem)
            return getattr(self, f"_{method.lower()}")(key, body)

    def _list(self, place: tuple[str, ...], query: dict[str, str]) -> dict[str, Any]:
        wanted = dict(each.split("=") for each in query.get("labelSelector", "").split(",") if each)
        found = [
            each
            for key, each in self.objects.items()
            if key[:3] == place and wanted.items() <= each["metadata"].get("labels", {}).items()
        ]
        return {"kind": "List", "apiVersion": "v1", "metadata": {}, "items": found}

    def _get(self, key: Key, body: dict[str, Any]) -> Answer:
        return (200, self.objects[key]) if key in self.objects else _absent(key)

    def _post(self, key: Key, body: dict[str, Any]) -> Answer:
        return _refusal(409, "exists") if key in self.objects else (201, self._store(key, body))

    def _put(self, key: Key, body: dict[str, Any]) -> Answer:
        """As by `kubectl edit`, whose fields are its own from then on."""
        before = self.objects[key]
        if body["metadata"].get("resourceVersion") != before["metadata"]["resourceVersion"]:
            return _refusal(409, "the object has been modified")
        changed = _fields(body).items() - _fields(before).items()
        self.owners.setdefault(key, {}).update({path: "kubectl-edit" for path, _ in changed})
        return 200, self._store(key, body)

    def _patch(self, key: Key, body: dict[str, Any], manager: str, force: bool) -> Answer:
        present = self.objects.get(key)
        seen = body["metadata"].pop("resourceVersion", None)
        if present and seen not in (None, present["metadata"]["resourceVersion"]):
            return _refusal(409, "the object has been modified")
        owners = self.owners.setdefault(key, {})
        changed = dict(_fields(body).items() - (_fields(present) if present else {}).items())
        others = sorted(path for path in changed if owners.get(path, manager) != manager)
        if others and not force:
            return _conflict(owners[others[0]], others)
        owners.update(dict.fromkeys(changed, manager))
        return 200, self._store(key, body)

    def _delete(self, key: Key, body: dict[str, Any]) -> Answer:
        if self.objects.pop(key, None) is None:
            return _absent(key)
        return 200, {"kind": "Status", "apiVersion": "v1", "status": "Success"}

    def _store(self, key: Key, body: dict[str, Any]) -> dict[str, Any]:
        self.changes += 1
        body["metadata"] |= {"resourceVersion": str(self.changes), "generation": self.changes}
        if key[2] == "httproutes" and self.gateway:
            fine = {"status": "True", "observedGeneration": self.changes}
            conditions = [{"type": kind} | fine for kind in ("Accepted", "ResolvedRefs")]
            body["status"] = {"parents": [{"conditions": conditions}]}
        if key[2] == "deployments" and self.pods_run:
            seen = {"observedGeneration": self.changes}
            body["status"] = seen | dict.fromkeys(_PODS, 2)
        if key[2] == "workflows":
            body["status"] = self.workflow
        self.objects[key] = body
        return body


class _Handler(BaseHTTPRequestHandler):
    def _answer(self) -> None:
        server = self.server
        assert isinstance(server, ApiServer)
        content = self.rfile.read(int(self.headers.get("content-length") or 0))
        kind = self.headers.get("content-type", "")
        if server.token and self.headers.get("authorization") != f"Bearer {server.token}":
            status, body = _refusal(401, "Unauthorized")
        else:
            asked = json.loads(content or b"{}")
            status, body = server.answer(self.command, self.path, kind, asked)
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def _invalid(plural: str, body: dict[str, Any]) -> str:
    """What the real server refuses of what is sent to this one."""
    seconds = body.get("spec", {}).get("leaseDurationSeconds") if plural == "leases" else None
    if seconds is not None and (not isinstance(seconds, int) or seconds <= 0):
        return f"spec.leaseDurationSeconds: Invalid value: {seconds}: must be a positive integer"
    return ""


def _name(metadata: dict[str, Any]) -> str:
    if "name" not in metadata:
        metadata["name"] = metadata["generateName"] + "x7k2p"
    return metadata["name"]


def _fields(part: Any, path: str = "") -> dict[str, str]:
    """Leaf by its path; who applies owns leaves. Kubernetes's own fields are left out."""
    if not isinstance(part, dict):
        return {path: json.dumps(part)}  # a list, too: an HTTPRoute's are atomic
    skipped = ("status", "resourceVersion", "generation")
    found: dict[str, str] = {}
    for key, each in part.items():
        if key not in skipped:
            found |= _fields(each, f"{path}.{key}")
    return found


def _conflict(manager: str, paths: list[str]) -> Answer:
    code, status = _refusal(
        409, f'Apply failed with {len(paths)} conflicts: conflicts with "{manager}": {paths[0]}'
    )
    causes = [{"reason": "FieldManagerConflict", "field": path} for path in paths]
    return code, status | {"reason": "Conflict", "details": {"causes": causes}}


def _absent(key: Key) -> Answer:
    code, status = _refusal(404, f'{key[2]} "{key[3]}" not found')
    return code, status | {"reason": "NotFound", "details": {"kind": key[2], "name": key[3]}}


def _refusal(code: int, message: str) -> Answer:
    status = {"kind": "Status", "apiVersion": "v1", "status": "Failure"}
    return code, status | {"message": message, "code": code}


@contextmanager
def stand_in(folder: Path) -> Iterator[ApiServer]:
    """An API server that this process takes for the cluster; `folder` gets its `kubeconfig`."""
    with ApiServer() as server, pytest.MonkeyPatch.context() as patched:
        threading.Thread(target=server.serve_forever).start()
        file = folder / "kubeconfig"
        file.write_text(yaml.safe_dump(kubeconfig(f"http://127.0.0.1:{server.server_port}")))
        patched.setattr(LOCATION, str(file))
        try:
            yield server
        finally:
            server.shutdown()


def kubeconfig(server: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {"server": server}}],
        "users": [{"name": "test", "user": {}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "current-context": "test",
    }
