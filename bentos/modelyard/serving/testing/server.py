"""A real server of a service, for a test: started, ready, and gone afterwards."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from modelyard.documents.http import READINESS_ROUTE
from modelyard.documents.prediction_log import FLUSH_VARIABLE, PLACE_VARIABLE

PATIENCE = 60
"""seconds that a server may take to get ready"""


@dataclass
class Server:
    """A running `bentoml serve`."""

    url: str
    client: httpx.Client
    process: subprocess.Popen[bytes]
    log_file: Path
    home: Path

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    @property
    def predictions(self) -> Path:
        """The prediction log's folder."""
        return self.home / "predictions"


@contextmanager
def serve(
    service: Path, package: Path | None = None, *, path: str = READINESS_ROUTE, **environment: str
) -> Iterator[Server]:
    """Serve a `service.py` or a Bento's folder on a free port, with a BENTOML_HOME of its own.

    Args:
        package: what to serve; a Bento has its own.
        path: what must answer 200 before the server is handed out.
        environment: more variables for the server.

    Raises:
        RuntimeError: the server ended, or did not answer in time; the text is its log.
    """
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        port = _free_port()
        bento = service.is_dir()
        settings = {
            "BENTOML_HOME": str(home / "bentoml"),
            "BENTOML_DO_NOT_TRACK": "True",
            PLACE_VARIABLE: str(home / "predictions"),
            FLUSH_VARIABLE: "0.5",
            "MODELYARD_DRAIN": "0.1",
        } | ({"MODELYARD_PACKAGE": str(package.resolve())} if package else {})
        command = [sys.executable, "-m", "bentoml", "serve"]
        command += [str(service.resolve()) if bento else service.name]
        command += ["--host", "127.0.0.1", "--port", str(port)]
        log_file = home / "log"
        with log_file.open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=home if bento else service.parent,
                env=os.environ | settings | environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        url = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=url, timeout=PATIENCE, trust_env=False) as client:
            server = Server(url, client, process, log_file, home)
            try:
                _wait(server, path)
                yield server
            finally:
                stop(server)


def stop(server: Server) -> None:
    """Ask the server to end, and see that nothing of it is left."""
    if server.process.poll() is None:
        server.process.terminate()
        try:
            server.process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            pass
    try:
        os.killpg(server.process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    server.process.wait()


def _wait(server: Server, path: str) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if server.process.poll() is not None:
            raise RuntimeError(f"the server ended with {server.process.returncode}:\n{server.log}")
        try:
            if server.client.get(path).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise RuntimeError(f"{path} was not 200 in {PATIENCE} s:\n{server.log}")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]
