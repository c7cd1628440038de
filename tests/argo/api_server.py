"""A stand-in for the Kubernetes API: stores objects, runs nothing.

Enough for what the Kubernetes side of the ports sends: discovery, get, list by labels,
create, replace by resourceVersion, server-side apply, delete. With KUBECONFIG
set the same tests talk to a real API server instead.
"""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

KINDS = {
    "v1": {"ConfigMap": "configmaps", "Pod": "pods", "Service": "services",
           "ServiceAccount": "serviceaccounts"},
    "apps/v1": {"Deployment": "deployments"},
    "autoscaling/v2": {"HorizontalPodAutoscaler": "horizontalpodautoscalers"},
    "coordination.k8s.io/v1": {"Lease": "leases"},
    "gateway.networking.k8s.io/v1": {"HTTPRoute": "httproutes"},
}  # fmt: skip
_OBJECT = re.compile(r"/apis?/((?:[a-z0-9.]+/)?v\d)/namespaces/([^/]+)/([a-z]+)(?:/([^/]+))?")

Answer = tuple[int, dict[str, Any]]


class ApiServer(ThreadingHTTPServer):
    """Serves on a free port of 127.0.0.1; `gateway` says whether routes get accepted."""

    daemon_threads = True

    def __init__(self, gateway: bool = True) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.gateway = gateway
        self.objects: dict[tuple[str, str, str, str], dict[str, Any]] = {}
        self.changes = 0
        self.lock = threading.Lock()

    def answer(self, method: str, path: str, kind: str, body: dict[str, Any]) -> Answer:
        parts = urlsplit(path)
        query = dict(parse_qsl(parts.query))
        match = _OBJECT.fullmatch(parts.path)
        if not match:
            return _discovery(parts.path)
        group, namespace, plural, name = match.groups()
        if plural not in KINDS.get(group, {}).values():
            return _refusal(404, f"no {plural} in {group}")
        with self.lock:
            if method == "GET" and not name:
                return 200, self._list((group, namespace, plural), query)
            key = (group, namespace, plural, name or body["metadata"]["name"])
            return getattr(self, f"_{method.lower()}")(key, kind, body)

    def _list(self, place: tuple[str, ...], query: dict[str, str]) -> dict[str, Any]:
        wanted = dict(each.split("=") for each in query.get("labelSelector", "").split(",") if each)
        found = [
            each
            for key, each in self.objects.items()
            if key[:3] == place and wanted.items() <= each["metadata"].get("labels", {}).items()
        ]
        return {"kind": "List", "apiVersion": "v1", "metadata": {}, "items": found}

    def _get(self, key: tuple[str, str, str, str], kind: str, body: dict[str, Any]) -> Answer:
        return (200, self.objects[key]) if key in self.objects else _refusal(404, "not found")

    def _post(self, key: tuple[str, str, str, str], kind: str, body: dict[str, Any]) -> Answer:
        return _refusal(409, "exists") if key in self.objects else (201, self._store(key, body))

    def _put(self, key: tuple[str, str, str, str], kind: str, body: dict[str, Any]) -> Answer:
        seen = self.objects[key]["metadata"]["resourceVersion"]
        if body["metadata"].get("resourceVersion") != seen:
            return _refusal(409, "the object has been modified")
        return 200, self._store(key, body)

    def _patch(self, key: tuple[str, str, str, str], kind: str, body: dict[str, Any]) -> Answer:
        assert kind == "application/apply-patch+yaml", kind
        return 200, self._store(key, body)  # one manager, so its own last word stands

    def _delete(self, key: tuple[str, str, str, str], kind: str, body: dict[str, Any]) -> Answer:
        if self.objects.pop(key, None) is None:
            return _refusal(404, "not found")
        return 200, {"kind": "Status", "apiVersion": "v1", "status": "Success"}

    def _store(self, key: tuple[str, str, str, str], body: dict[str, Any]) -> dict[str, Any]:
        self.changes += 1
        body["metadata"] |= {"resourceVersion": str(self.changes), "generation": self.changes}
        if key[2] == "httproutes" and self.gateway:
            fine = {"status": "True", "observedGeneration": self.changes}
            conditions = [{"type": kind} | fine for kind in ("Accepted", "ResolvedRefs")]
            body["status"] = {"parents": [{"conditions": conditions}]}
        self.objects[key] = body
        return body


class _Handler(BaseHTTPRequestHandler):
    def _answer(self) -> None:
        server = self.server
        assert isinstance(server, ApiServer)
        content = self.rfile.read(int(self.headers.get("content-length") or 0))
        kind = self.headers.get("content-type", "")
        status, body = server.answer(self.command, self.path, kind, json.loads(content or b"{}"))
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def _discovery(path: str) -> Answer:
    group = path.removeprefix("/apis/").removeprefix("/api/")
    if path == "/version":
        return 200, {"major": "1", "minor": "34", "gitVersion": "v1.34.0"}
    if path == "/api":
        return 200, {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        named = [each.split("/") for each in KINDS if "/" in each]
        served = [(name, {"groupVersion": f"{name}/{v}", "version": v}) for name, v in named]
        groups = [{"name": n, "versions": [v], "preferredVersion": v} for n, v in served]
        return 200, {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
    if group not in KINDS:
        return _refusal(404, f"nothing at {path}")
    verbs = ["create", "delete", "get", "list", "patch", "update"]
    resources = [
        {"name": plural, "singularName": "", "namespaced": True, "kind": kind, "verbs": verbs}
        for kind, plural in KINDS[group].items()
    ]
    return 200, {"kind": "APIResourceList", "groupVersion": group, "resources": resources}


def _refusal(code: int, message: str) -> Answer:
    status = {"kind": "Status", "apiVersion": "v1", "status": "Failure"}
    return code, status | {"message": message, "code": code}
