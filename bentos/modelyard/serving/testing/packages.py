"""Rows and whole model packages for any signature, without training."""

from pathlib import Path
from typing import Any

import numpy as np

from modelyard.coding import Coder, draw
from modelyard.documents import Manifest, Signature, write_manifest
from modelyard.documents.package import CARD, MODEL, ONNX, REFERENCE, SIGNATURE, score_columns
from modelyard.serving.codec.types import Row

MISSING = UNLISTED = 0.2
"""shares of the values: some are among few rows, too"""


def draw_rows(signature: Signature, count: int, seed: int = 0) -> list[Row]:
    """Rows that fit a signature, with missing and unlisted values where it allows them."""
    random = np.random.default_rng(seed)
    columns = {
        given.name: draw(given, count, random, MISSING, UNLISTED).tolist()
        for given in signature.inputs
    }
    rows = zip(*columns.values(), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]


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
    torch.export.save(program, folder / MODEL)
    if onnx:
        _write_onnx(program, folder / ONNX)
    reference = draw_rows(signature, 200)
    numbers, categories = Coder(signature).rows(reference)
    with torch.inference_mode():
        scores = graph(torch.from_numpy(numbers), torch.from_numpy(categories)).numpy()
    named = zip(score_columns(signature), scores.reshape(len(reference), -1).T, strict=True)
    columns = [pl.Series(name, values) for name, values in named]
    frame = pl.DataFrame(reference, infer_schema_length=None).with_columns(columns)
    frame.write_parquet(folder / REFERENCE)
    (folder / SIGNATURE).write_text(signature.model_dump_json(indent=2))
    (folder / CARD).write_text(f"# {name}\n\nUntrained: for tests.\n")
    write_manifest(folder, _manifest(name, torch.__version__))
    return folder


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
