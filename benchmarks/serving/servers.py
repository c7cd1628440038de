"""The servers that are compared, each on a free port of this machine."""

import collections
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.serving.image import Images
from modelyard.cli import script

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent / "peers"
PEERS = ("modelyard", "fastapi-onnx", "fastapi", "litserve", "bentoml")
BIN = Path(sys.executable).parent


class Running:
    """A started server; on exit all of its processes are ended.

    Args:
        bento: the folder that `modelyard` serves.
        images: what `image` is served from.
    """

    def __init__(
        self, name: str, workers: int, package: Path, bento: Path, images: Images | None = None
    ) -> None:
        self.name = name
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._home = tempfile.TemporaryDirectory()
        command, settings = _command(name, workers, port, bento)
        if images and name == "image":
            command = [*images.command(port)]
        environment = {
            "PACKAGE": str(package),
            "RUNTIME": "onnx" if name == "fastapi-onnx" else "torch",
            "BENTOML_HOME": self._home.name,
            "BENTOML_DO_NOT_TRACK": "True",
            "MODELYARD_PREDICTION_LOG": f"{self._home.name}/predictions",
            "OMP_NUM_THREADS": "1",
        }
        began = time.monotonic()
        self._log = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [str(part) for part in command],
            cwd=HERE, env={**os.environ, **environment, **settings},
            stdout=self._log, stderr=self._log, start_new_session=True,
        )  # fmt: skip
        self._wait()
        self.ready_s = time.monotonic() - began

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *error: object) -> None:
        processes = self._processes()
        self._process.terminate()
        alive = psutil.wait_procs(processes, timeout=10)[1]
        for process in alive:
            process.kill()
        self._process.wait()
        self._home.cleanup()

    def cpu_s(self) -> float:
        """User and system time of all of its processes so far."""
        return sum(t.user + t.system for t in (p.cpu_times() for p in self._processes()))

    def memory(self) -> int:
        """Bytes that all of its processes hold; pages of a file that they share count once."""
        own, files = 0, collections.Counter()
        for process in self._processes():
            for each in process.memory_maps(grouped=True):
                if each.path.startswith("/"):
                    own += each.private_dirty
                    files[each.path] = max(files[each.path], each.rss - each.private_dirty)
                else:
                    own += each.rss
        return own + files.total()

    def worker(self) -> psutil.Process:
        """The process that predicts: the largest one."""
        return max(self._processes(), key=lambda process: process.memory_info().rss)

    def _processes(self) -> list[psutil.Process]:
        leader = psutil.Process(self._process.pid)
        return [leader, *leader.children(recursive=True)]

    def _wait(self) -> None:
        end = time.monotonic() + 90
        while time.monotonic() < end and self._process.poll() is None:
            try:
                if httpx.get(f"{self.url}/readyz", timeout=5, trust_env=False).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.02)
        self._log.seek(0)
        sys.exit(f"{self.name} did not get ready:\n{self._log.read().decode()}")


def make_package(folder: Path) -> Path:
    """The flights example's inputs and network, untrained."""
    import torch

    from modelyard.documents import Signature
    from modelyard.documents.signature import Category, Number
    from modelyard.pipeline.training.layers import Embeddings, Standardise
    from modelyard.serving.testing import write_package

    names = [f"number_{place}" for place in range(13)]
    sizes = {"carrier": 16, "origin": 3, "dest": 105, "weekday": 7}
    inputs = [
        *(Category(name=n, values=tuple(f"{n} {v}" for v in range(s))) for n, s in sizes.items()),
        *(Number(name=n, minimum=0, maximum=1000, nullable=k > 2) for k, n in enumerate(names)),
    ]
    signature = Signature(
        task="binary", target="late", inputs=tuple(inputs), classes=("on time", "late")
    )

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.standardise = Standardise(signature)
            self.embed = Embeddings(signature, 8)
            width = self.standardise.width + self.embed.width
            self.layers = torch.nn.Sequential(
                torch.nn.Linear(width, 128), torch.nn.ReLU(),
                torch.nn.Linear(128, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1),
            )  # fmt: skip

        def forward(self, numbers: Any, categories: Any) -> Any:
            known = torch.cat([self.standardise(numbers / 1000), self.embed(categories)], dim=1)
            return self.layers(known).squeeze(1).sigmoid()

    return write_package(folder, signature, "flights", graph=Network().eval())


def build_bento(folder: Path, package: Path, workers: int) -> Path:
    """The Bento of the rendered service, as `make bento` builds it."""
    repo = folder / f"repo-{workers}"
    (repo / "bentos").mkdir(parents=True)
    (repo / "pyproject.toml").write_text('[project]\nname = "flights"\n')
    service = (ROOT / "template" / "bentos" / "service.py").read_text()
    service = service.replace("@service()", f"@service(workers={workers})")
    (repo / "bentos" / "service.py").write_text(service)
    shutil.copytree(package, repo / ".modelyard" / "packages" / "1")
    without = {k: v for k, v in os.environ.items() if k != "BENTOML_HOME"}
    subprocess.run(
        [script(), "build"],
        cwd=repo, env=without, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return repo / ".modelyard" / "bentoml" / "bentos" / "flights" / "1"


def _command(
    name: str, workers: int, port: int, bento: Path
) -> tuple[list[str | Path | int], dict[str, str]]:
    bentoml: list[str | Path | int] = [sys.executable, "-m", "bentoml", "serve"]
    where: list[str | Path | int] = ["--host", "127.0.0.1", "--port", port]
    if name == "modelyard":
        return [*bentoml, bento, *where], {}
    if name == "bentoml":
        return [*bentoml, "bentoml_plain:Plain", *where], {"WORKERS": str(workers)}
    if name == "litserve":
        return [sys.executable, "litserve_app.py", port, workers], {}
    quiet = ["--no-access-log", "--log-level", "warning"]
    return [BIN / "uvicorn", "fastapi_app:app", *where, "--workers", workers, *quiet], {}


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]
