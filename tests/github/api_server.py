"""The few answers of a Kubernetes API server, and of GitHub's identity tokens, that kubectl asks.

No cluster can run here. kubectl itself is real, and so are its TLS, its credential plugin and
its strict validation request; what is recorded is what a cluster would have been told.
"""

import base64
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from support import run

GROUP, VERSION = "argoproj.io", "v1alpha1"
KIND = {"group": GROUP, "version": VERSION, "kind": "Workflow"}
BASE = f"/apis/{GROUP}/{VERSION}"
SERVED = {"groupVersion": f"{GROUP}/{VERSION}", "version": VERSION}

DISCOVERY: dict[str, Any] = {
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {
        "kind": "APIGroupList",
        "apiVersion": "v1",
        "groups": [{"name": GROUP, "versions": [SERVED], "preferredVersion": SERVED}],
    },
    BASE: {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": f"{GROUP}/{VERSION}",
        "resources": [
            {
                "name": "workflows",
                "singularName": "workflow",
                "namespaced": True,
                "kind": "Workflow",
                "verbs": ["create", "get"],
            }
        ],
    },
    "/openapi/v3": {"paths": {BASE[1:]: {"serverRelativeURL": f"/openapi/v3{BASE}"}}},
    f"/openapi/v3{BASE}": {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1.32"},
        "paths": {
            f"{BASE}/namespaces/{{namespace}}/workflows/{{name}}": {
                "patch": {
                    "x-kubernetes-group-version-kind": KIND,
                    "parameters": [{"name": "fieldValidation", "in": "query"}],
                    "responses": {},
                }
            }
        },
    },
}


@dataclass
class Cluster:
    """Its address, and what happened to it. `phases` is how each namespace's release ends."""

    url: str = ""
    authority: str = ""
    certificate: Path = Path()
    phases: dict[str, str] = field(default_factory=dict)
    submitted: list[dict[str, Any]] = field(default_factory=list)
    audiences: set[str] = field(default_factory=set)

    @property
    def env(self) -> dict[str, str]:
        """What GitHub's runner gives to a job with `id-token: write`."""
        return {
            "ACTIONS_ID_TOKEN_REQUEST_URL": f"{self.url}/token?api-version=2",
            "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "of-the-job",
            "CURL_CA_BUNDLE": str(self.certificate),
        }

    def answer(self, method: str, target: str, bearer: str, body: bytes) -> Any:
        """The document for a request, or None where there is none."""
        path, query = urlsplit(target).path, parse_qs(urlsplit(target).query)
        if path == "/token" and bearer == "of-the-job":
            self.audiences |= set(query["audience"])
            return {"value": "identity"}
        if bearer != "identity":
            return None
        if method == "POST" and path.endswith("/workflows"):
            assert query["fieldValidation"] == ["Strict"]
            workflow = json.loads(body)
            workflow["metadata"]["name"] = workflow["metadata"]["generateName"] + "x7k2p"
            self.submitted.append(workflow)
            return workflow
        if "/workflows/" in path:
            name, namespace = path.split("/")[-1], path.split("/")[-3]
            phase = {"phase": self.phases[namespace], "message": "canary: exit code 2"}
            meta = {"name": name, "namespace": namespace}
            return {"apiVersion": SERVED["groupVersion"], "kind": "Workflow",
                    "metadata": meta, "status": phase}  # fmt: skip
        return DISCOVERY.get(path)


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    state = Cluster(certificate=folder / "tls.crt")

    class Handler(BaseHTTPRequestHandler):
        def respond(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            bearer = self.headers.get("authorization", "").partition(" ")[2]
            document = state.answer(self.command, self.path, bearer, body)
            missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404}
            data = json.dumps(document or missing).encode()
            self.send_response(200 if document else 404)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = respond

        def log_message(self, format: str, *args: Any) -> None:
            pass

    run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
        "-keyout", "tls.key", "-out", "tls.crt", "-subj", "/CN=cluster",
        "-addext", "subjectAltName=IP:127.0.0.1", cwd=folder)  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    state.url = f"https://127.0.0.1:{server.server_port}"
    state.authority = base64.b64encode((folder / "tls.crt").read_bytes()).decode()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
