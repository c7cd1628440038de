"""The real pipeline writes a model package, the real server and the real release read it."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from modelyard.delivery.local.folders import Folders
from modelyard.delivery.local.record import FileRecord
from modelyard.delivery.local.reference import read_reference, reference_rows
from modelyard.documents import Manifest, Signature, UserError, write_manifest
from modelyard.documents.layout import STATE, bento_tag
from modelyard.documents.package import MANIFEST, MODEL, ONNX, REFERENCE, SIGNATURE, score_columns
from modelyard.documents.signature import Category, Number, Task
from modelyard.pipeline.data.tensors import encode
from modelyard.pipeline.evaluation.scoring import load
from modelyard.pipeline.packaging import package as writing
from modelyard.pipeline.packaging.onnx_export import write_onnx
from modelyard.pipeline.packaging.torch_export import export
from modelyard.pipeline.storage.workspace import Workspace
from modelyard.serving.inference.model import Model
from modelyard.serving.package import find_package
from modelyard.serving.testing import draw_rows

CLASSES: dict[Task, tuple[str, ...]] = {
    "binary": ("on time", "late"),
    "multiclass": ("early", "late", "lost"),
    "regression": (),
}
ROWS = 300


class Network(torch.nn.Module):
    def __init__(self, outputs: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(3, outputs)

    def forward(self, numbers: torch.Tensor, categories: torch.Tensor) -> torch.Tensor:
        return self.layer(torch.cat([numbers.nan_to_num() / 1000, categories.float()], dim=1))


def score(task: Task, out: torch.Tensor) -> torch.Tensor:
    if task == "multiclass":
        return out.softmax(dim=1)
    return out[:, 0].sigmoid() if task == "binary" else out[:, 0]


def write_package(folder: Path, task: Task) -> Signature:
    """Each file by the code that writes it in `make train`."""
    inputs = (
        Number(name="scoreboard", minimum=0, maximum=5000),  # no column of scores
        Number(name="wind", nullable=True),
        Category(name="dest", values=("BOS", "LAX"), nullable=True, open=True),
    )
    signature = Signature(task=task, target="late", inputs=inputs, classes=CLASSES[task])
    folder.mkdir(parents=True)
    network = Network(max(1, len(signature.classes)) if task == "multiclass" else 1)
    weights = folder.parent / "weights"
    torch.save(network.state_dict(), weights)
    export(network, lambda out: score(task, out), weights, signature, folder / MODEL)
    test = folder.parent / "test.parquet"
    pl.DataFrame(draw_rows(signature, ROWS), infer_schema_length=None).write_parquet(test)
    scores = load(folder / MODEL)(*encode(pl.read_parquet(test), signature))
    reference = writing._reference(test, signature, scores)
    reference.write_parquet(folder / REFERENCE)
    assert write_onnx(folder / MODEL, folder / ONNX, *encode(reference, signature))
    (folder / SIGNATURE).write_text(signature.model_dump_json())
    manifest = Manifest(
        name="flight-delay", created="2026-01-01T00:00:00Z", git_commit="c0ffee",
        template_version="v1", data_hash="d", test_hash="t", rows={}, ranks=1, configuration={},
        metrics={}, environment={},
    )  # fmt: skip
    write_manifest(folder, manifest)
    weights.unlink(), test.unlink()
    return signature


@pytest.mark.parametrize("task", CLASSES)
def test_a_package_is_served_and_compared(task: Task, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    signature = write_package(workspace.registered(1), task)
    package = find_package(tmp_path / "bentos")
    assert (package.version, package.path) == (1, workspace.registered(1).resolve())

    model = Model(package.path)  # its self-check holds the pipeline's scores against its own
    rows = reference_rows(package.path, 5)
    columns = score_columns(signature)
    expected = pl.read_parquet(package.path / REFERENCE, columns=columns, n_rows=5).to_numpy()
    np.testing.assert_allclose(model.scores(rows).reshape(5, -1), expected, atol=1e-4)

    reference = read_reference(package.path)
    told = pl.read_parquet(package.path / REFERENCE, columns=columns).to_numpy()
    assert reference.spread == pytest.approx(float(np.sqrt(np.var(told, axis=0).sum())))
    assert reference.histogram(told.max(axis=1)).sum() == ROWS


def test_scores_under_another_name_are_missed_by_both(tmp_path: Path) -> None:
    folder = tmp_path / "1"
    write_package(folder, "binary")
    renamed = pl.read_parquet(folder / REFERENCE).rename({"score": "probability"})
    renamed.write_parquet(folder / REFERENCE)
    write_manifest(folder, Manifest.model_validate_json((folder / MANIFEST).read_bytes()))
    with pytest.raises(UserError, match="self-check failed"):
        Model(folder)
    with pytest.raises(UserError, match="no reference scores"):
        read_reference(folder)


def test_folders_of_a_model_repo(tmp_path: Path) -> None:
    """Where the pipeline registers, serving builds, and a release takes and records."""
    workspace = Workspace(tmp_path)
    assert workspace.state == tmp_path / STATE
    assert FileRecord(workspace.state).folder == workspace.releases
    folders = Folders("flight-delay", workspace.state)
    assert folders.bento(2) == workspace.state / "bentoml/bentos/flight-delay/2"
    assert folders.package(2) == folders.bento(2) / "src/packages/2"
    assert bento_tag("flight-delay", 2) == "flight-delay:2"
