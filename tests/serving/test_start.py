"""A server started as users and pods start it: with nothing said of host and port, or one way."""

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from serving.network import network

from modelyard.documents.signature import Task

pytestmark = pytest.mark.xdist_group("serving")

ROW = {"distance": 1400.0, "hour": 17, "wind": 12.5, "carrier": "AA", "dest": "LAX"}
SERVE = [sys.executable, "-m", "bentoml", "serve", "service.py"]
SERVICE = """
from modelyard.serving import ModelService, service

@service({settings})
class Service(ModelService):
    pass
"""


@pytest.fixture
def bare(tmp_path: Path, package: Callable[[Task], Path]) -> dict[str, str]:
    """The environment of somebody who set nothing; `service.py` is in the folder."""
    (tmp_path / "service.py").write_text(SERVICE.format(settings=""))
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("BENTOML_", "MODELYARD_")) and name != "PORT"
    }
    return kept | {"HOME": str(tmp_path), "MODELYARD_PACKAGE": str(package("binary"))}


def test_with_nothing_set_it_listens_where_bentoml_says(
    bare: dict[str, str], tmp_path: Path
) -> None:
    """On port 3000 of all addresses."""
    with network() as own, (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            [*own.enter, *SERVE], cwd=tmp_path, env=bare, stdout=log, stderr=log
        )
        try:
            # Of the whole loopback net, a server on 127.0.0.1 has only that address.
            ready = own.ask("GET", "http://127.0.0.2:3000/readyz", within_s=180)
            assert ready[0] == 200, (tmp_path / "log").read_text()
            status, text = own.ask("POST", "http://127.0.0.1:3000/predict", {"rows": [ROW]})
            assert status == 200 and json.loads(text)["version"] == 1
            second = run([*own.enter, *SERVE], tmp_path, bare)
        finally:
            server.terminate()
            server.wait(30)
    assert second.returncode == 1
    assert "can't listen on 0.0.0.0:3000: Address already in use" in second.stderr


@pytest.mark.parametrize(
    ("arguments", "variables", "settings", "named"),
    [
        ("--host 127.0.0.1 --port {port}", {}, "", "127.0.0.1"),
        pytest.param("--port {port}", {}, "", "0.0.0.0", marks=pytest.mark.slow),
        pytest.param("--port {port} --host ::", {}, "", "[::]", marks=pytest.mark.slow),
        ("", {"BENTOML_PORT": "{port}", "BENTOML_HOST": "127.0.0.1"}, "", "127.0.0.1"),
        pytest.param(
            "--host 127.0.0.1", {"BENTOML_PORT": "{port}"}, "", "127.0.0.1", marks=pytest.mark.slow
        ),
        pytest.param(
            "", {"BENTOML_CONFIG": "configuration.yaml"}, "", "127.0.0.1", marks=pytest.mark.slow
        ),
        ("", {}, "http={{'port': {port}}}", "0.0.0.0"),
    ],
)
def test_a_port_in_use_is_one_clear_message(
    arguments: str,
    variables: dict[str, str],
    settings: str,
    named: str,
    bare: dict[str, str],
    tmp_path: Path,
) -> None:
    """Whoever chose it: the command line, variables, a configuration file, the service."""
    with taken() as port:
        http = f"{{host: 127.0.0.1, port: {port}}}"
        (tmp_path / "configuration.yaml").write_text(f"services: {{http: {http}}}")
        code = SERVICE.format(settings=settings.format(port=port))
        (tmp_path / "service.py").write_text(code)
        given = {name: value.format(port=port) for name, value in variables.items()}
        found = run([*SERVE, *arguments.format(port=port).split()], tmp_path, bare | given)
    assert found.returncode == 1
    assert f"can't listen on {named}:{port}: Address already in use" in found.stderr
    assert "Traceback" not in found.stderr


def test_an_address_of_another_machine_is_one_too(bare: dict[str, str], tmp_path: Path) -> None:
    found = run([*SERVE, "--host", "192.0.2.1"], tmp_path, bare)
    assert found.returncode == 1 and "Traceback" not in found.stderr
    assert "can't listen on 192.0.2.1:3000: Cannot assign requested address" in found.stderr


@contextlib.contextmanager
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listens:
        yield listens.getsockname()[1]


def run(
    command: list[str], folder: Path, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )
