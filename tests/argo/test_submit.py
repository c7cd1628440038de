"""`modelyard release submit`: over real HTTP to a stand-in for Argo's server, or the cluster's."""

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from argo.api_server import stand_in
from argo.entry import Done, modelyard
from argo.rendered import MODEL
from argo.schemas import check
from argo.workflow_status import NAME, node, status

from modelyard.delivery.cluster import submit
from modelyard.documents import UserError

TOKEN = "Bearer of-the-test"


class ArgoStandIn(ThreadingHTTPServer):
    """Takes a workflow, and tells one status after the other; a number is an HTTP refusal."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.told: list[dict[str, Any] | int] = []
        self.submitted: list[dict[str, Any]] = []

    def answer(self, method: str, path: str, token: str, body: bytes) -> tuple[int, Any]:
        if token != TOKEN:
            return 401, {"code": 16, "message": "token not valid"}
        if method == "POST" and path == "/api/v1/workflows/flight-delay-production":
            workflow = json.loads(body)["workflow"]
            check(workflow)
            workflow["metadata"]["name"] = NAME
            self.submitted.append(workflow)
            return 200, workflow
        if path.split("?")[0] != f"/api/v1/workflows/flight-delay-production/{NAME}":
            return 404, {"code": 5, "message": f"nothing at {path}"}
        told = self.told.pop(0) if len(self.told) > 1 else self.told[0]
        if isinstance(told, int):
            return told, {"code": 13, "message": "not now"}
        return 200, self.submitted[0] | {"status": told}


class _Handler(BaseHTTPRequestHandler):
    def respond(self) -> None:
        assert isinstance(self.server, ArgoStandIn)
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        token = self.headers.get("authorization", "")
        code, document = self.server.answer(self.command, self.path, token, body)
        data = json.dumps(document).encode()
        self.send_response(code)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = respond

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def argo() -> Iterator[ArgoStandIn]:
    with ArgoStandIn() as server:
        threading.Thread(target=server.serve_forever).start()
        yield server
        server.shutdown()


def command(folder: Path, env: str = "production", **given: str) -> Done:
    return modelyard(folder, "release", "submit", "--env", env, NO_PROXY="*", **given)


@pytest.mark.parametrize(
    ("ended", "code", "said"),
    [
        (status("Succeeded", node("promote", "Succeeded")), 0, "version 2: it serves"),
        (status("Failed", node("canary(0)", "Failed", 2, "Pod")), 2, "version 2: rolled back"),
        (status("Failed", node("canary(0)", "Failed", 3, "Pod")), 3, "version 2: held"),
        (status("Error", node("deploy", "Error")), 1, "version 2: not promoted"),
    ],
)
def test_the_exit_code_is_the_outcome(
    argo: ArgoStandIn, ended: dict[str, Any], code: int, said: str
) -> None:
    argo.told = [ended]
    server = {"ARGO_SERVER": f"http://127.0.0.1:{argo.server_port}", "ARGO_TOKEN": TOKEN}
    done = command(MODEL, **server)
    assert (done.returncode, said in done.stdout) == (code, True), (done.stdout, done.stderr)
    assert f"{NAME} in flight-delay-production releases version 2" in done.stdout
    committed = MODEL / "argo/manifests/production/release/workflow.yaml"
    submitted = argo.submitted[0]
    del submitted["metadata"]["name"]
    assert submitted == yaml.safe_load(committed.read_text()), "what was reviewed is submitted"


def server_of(argo: ArgoStandIn, monkeypatch: pytest.MonkeyPatch) -> submit.Workflows:
    monkeypatch.setenv("ARGO_SERVER", f"127.0.0.1:{argo.server_port}")
    monkeypatch.setenv("ARGO_SECURE", "false")
    monkeypatch.setenv("ARGO_TOKEN", TOKEN)
    where = submit.workflows("flight-delay-production")
    path = MODEL / "argo/manifests/production/release/workflow.yaml"
    assert where.create(yaml.safe_load(path.read_text())) == NAME
    return where


def test_nodes_are_followed_through_an_outage(
    argo: ArgoStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    shadow, canary = node("shadow", "Succeeded"), node("canary", "Running")
    waits = node("approve", "Running", kind="Suspend")
    argo.told = [
        {},
        status("Running", node("shadow", "Running")),
        500,
        503,
        status("Running", shadow, canary),
        status("Running", shadow, canary | {"phase": "Succeeded"}, waits),
        status(
            "Succeeded", shadow, canary | {"phase": "Succeeded"}, waits | {"phase": "Succeeded"}
        ),
    ]
    lines: list[str] = []
    where = server_of(argo, monkeypatch)
    assert submit.follow(where, NAME, lines.append, sleep=lambda seconds: None) == 0
    assert lines[0] == "shadow: Running"
    assert [line.split(":")[0] for line in lines[1:3]] == ["no answer, asking on"] * 2
    assert lines[3:5] in (["canary: Running", "shadow: Succeeded"],)
    assert lines[5].startswith("approve: Running: waits for you, `argo resume flight-delay-v2-")
    assert lines[6:] == ["canary: Succeeded", "approve: Succeeded"]


def test_a_workflow_that_is_gone_ends_the_following(
    argo: ArgoStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    argo.told = [404]
    with pytest.raises(UserError, match="the Argo server .* refuses: .*404"):
        submit.follow(server_of(argo, monkeypatch), NAME, print, sleep=lambda seconds: None)


def test_a_wrong_token(argo: ArgoStandIn) -> None:
    server = {"ARGO_SERVER": f"http://127.0.0.1:{argo.server_port}", "ARGO_TOKEN": "Bearer other"}
    done = command(MODEL, **server)
    assert done.returncode == 1 and "token not valid" in done.stderr
    assert "Traceback" not in done.stderr and "other" not in done.stderr


def test_no_argo_server_there() -> None:
    done = command(MODEL, ARGO_SERVER="http://127.0.0.1:1", ARGO_TOKEN=TOKEN)
    assert done.returncode == 1 and "error: the Argo server http://127.0.0.1:1: " in done.stderr
    assert "Traceback" not in done.stderr


def test_by_the_clusters_own_api(tmp_path: Path) -> None:
    with stand_in(tmp_path) as server:
        server.workflow = status("Failed", node("shadow(0)", "Failed", 2, "Pod"))
        done = command(MODEL, ARGO_SERVER="")
    assert done.returncode == 2, done.stderr
    assert "shadow(0): Failed (Error (exit code 2))" in done.stdout
    (key,) = [key for key in server.objects if key[2] == "workflows"]
    assert key[1] == "flight-delay-production"


def test_a_local_environment_has_no_workflow(tmp_path: Path) -> None:
    shutil.copytree(MODEL, tmp_path / "model")
    done = command(tmp_path / "model", env="local")
    assert done.returncode == 1 and "use `modelyard release run`" in done.stderr
