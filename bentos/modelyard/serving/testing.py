"""For tests of a service: a package for any signature without training, and a real server."""

import os
import random
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
from typing import Any

import httpx

from modelyard.documents import Manifest, Signature, write_manifest
from modelyard.documents.signature import Category, Input
from modelyard.serving.encoding import Encoder
from modelyard.serving.rows import Row

PATIENCE = 60
"""seconds that a server may take to get ready"""


def draw_rows(signature: Signature, count: int, seed: int = 0) -> list[Row]:
    """Rows that fit a signature, with missing and unlisted values where it allows them."""
    source = random.Random(seed)
    return [{i.name: _draw(i, source) for i in signature.inputs} for _ in range(count)]


def write_package(
    folder: Path,
    signature: Signature,
    name: str = "model",
    onnx: bool = True,
    graph: Any = None,
) -> Path:
    """A whole model package.

    Args:
        graph: a torch Module of the two tensors; else an arbitrary fixed function of all inputs.
        onnx: whether to add `model.onnx`.
    """
    import polars as pl
    import torch

    folder.mkdir(parents=True)
    graph = graph or _graph(signature)
    example = (
        torch.zeros(2, len(signature.numbers)),
        torch.zeros(2, len(signature.categories), dtype=torch.int64),
    )
    rows = torch.export.Dim("rows", min=1)
    program = torch.export.export(graph, example, dynamic_shapes=({0: rows}, {0: rows}))
    torch.export.save(program, folder / "model.pt2")
    if onnx:
        _write_onnx(program, folder / "model.onnx")
    reference = draw_rows(signature, 200)
    numbers, categories = Encoder(signature).encode(reference)
    with torch.inference_mode():
        scores = graph(torch.from_numpy(numbers), torch.from_numpy(categories)).numpy()
    names = ["score"] if scores.ndim == 1 else [f"score_{c}" for c in signature.classes]
    columns = [pl.Series(n, s) for n, s in zip(names, scores.reshape(200, -1).T, strict=True)]
    frame = pl.DataFrame(reference, infer_schema_length=None).with_columns(columns)
    frame.write_parquet(folder / "reference.parquet")
    (folder / "signature.json").write_text(signature.model_dump_json(indent=2))
    (folder / "model_card.md").write_text(f"# {name}\n\nUntrained: for tests.\n")
    write_manifest(folder, _manifest(name, torch.__version__))
    return folder


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
    service: Path, package: Path | None = None, *, path: str = "/readyz", **environment: str
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
            "MODELYARD_PREDICTION_LOG": str(home / "predictions"),
            "MODELYARD_PREDICTION_LOG_FLUSH": "0.5",
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


def _draw(field: Input, source: random.Random) -> float | str | None:
    if field.nullable and source.random() < 0.2:
        return None
    if isinstance(field, Category):
        unlisted = field.open and source.random() < 0.2
        return "not listed" if unlisted else source.choice(field.values)
    low = field.minimum if field.minimum is not None else (field.maximum or 1.0) - 1
    high = field.maximum if field.maximum is not None else low + 1
    value = source.uniform(low, high)
    return round(value) if field.integer else value


def _graph(signature: Signature) -> Any:
    import torch

    class Graph(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            seeded = torch.Generator().manual_seed(0)
            width = 2 * len(signature.numbers) + len(signature.categories)
            outputs = len(signature.classes) if signature.task == "multiclass" else 1
            self.register_buffer("weights", torch.randn(width, outputs, generator=seeded))

        def forward(self, numbers: torch.Tensor, categories: torch.Tensor) -> torch.Tensor:
            missing = torch.isnan(numbers)
            waves = torch.cat([torch.nan_to_num(numbers), categories], dim=1).sin()
            out = torch.cat([waves, missing.float()], dim=1) @ self.weights
            if signature.task == "multiclass":
                return out.softmax(dim=1)
            return out.squeeze(1) if signature.task == "regression" else out.squeeze(1).sigmoid()

    return Graph().eval()


def _write_onnx(program: Any, path: Path) -> None:
    import logging
    import warnings

    import torch

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(program, f=path, dynamo=True, verbose=False, external_data=False)


def _manifest(name: str, torch_version: str) -> Manifest:
    return Manifest(
        name=name,
        created="2026-01-01T00:00:00Z",
        git_commit="0" * 40,
        template_version="test",
        data_hash="",
        test_hash="",
        rows={},
        ranks=1,
        configuration={},
        metrics={},
        environment={"torch": torch_version},
    )
