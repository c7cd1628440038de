"""Writes the model package, whole or not at all."""

import shutil
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Any

import numpy as np
import polars as pl

from modelyard.documents import Manifest, Signature, verify_package, write_manifest
from modelyard.documents.files import replaced_folder
from modelyard.documents.package import MODEL, ONNX, REFERENCE, SIGNATURE, score_columns
from modelyard.pipeline.config.settings import Settings
from modelyard.pipeline.data.content import combined, rows_in, stored_hash
from modelyard.pipeline.data.tensors import encode
from modelyard.pipeline.evaluation.champion import Evaluation, read_evaluation
from modelyard.pipeline.evaluation.scoring import read_slice, read_target
from modelyard.pipeline.packaging.onnx_export import write_onnx
from modelyard.pipeline.storage.workspace import Workspace
from modelyard.pipeline.training.workdir import read_history

REFERENCE_ROWS = 2000
DISTRIBUTIONS = ("modelyard", "numpy", "pandera", "polars", "scikit-learn", "torch")


def build(
    workspace: Workspace, settings: Settings[Any], signature: Signature
) -> tuple[Manifest, str]:
    """`.modelyard/package` from the exported model and its evaluation.

    It is written beside its place, verified there by hash, and then renamed.

    Returns:
        the manifest and the package's id.
    """
    from modelyard.pipeline.packaging.model_card import write_card

    evaluation, score = read_evaluation(workspace)
    test = workspace.dataset("test")
    manifest = _manifest(workspace, settings, evaluation)
    with replaced_folder(workspace.package) as package:
        shutil.copyfile(workspace.evaluation / MODEL, package / MODEL)
        (package / SIGNATURE).write_text(signature.model_dump_json(indent=2) + "\n")
        reference = _reference(test, signature, score)
        reference.write_parquet(package / REFERENCE)
        write_onnx(package / MODEL, package / ONNX, *encode(reference, signature))
        compared = evaluation.gate if evaluation.champion is not None else None
        slices = {column: read_slice(test, column) for column in settings.gate.slices}
        write_card(
            package, manifest, signature, read_target(test, signature), score, compared,
            slices, workspace.project().get("description", ""),
        )  # fmt: skip
        write_manifest(package, manifest)
        manifest, _, package_id = verify_package(package)
    return manifest, package_id


def _manifest(workspace: Workspace, settings: Settings[Any], evaluation: Evaluation) -> Manifest:
    months = list(settings.data.months)
    stages = {"raw": "raw", "valid": "valid", "quarantined": "quarantine"}
    rows = {
        key: rows_in(workspace.partition(stage, month) for month in months)
        for key, stage in stages.items()
    }
    parts = settings.split.parts()
    rows |= {part: rows_in([workspace.dataset(part)]) for part in parts}
    return Manifest(
        name=workspace.project()["name"],
        created=workspace.changed().isoformat(timespec="seconds"),
        git_commit=workspace.git_commit(),
        template_version=workspace.template_version(),
        data_hash=combined(stored_hash(workspace.dataset(p)) for p in ("train", "validation")),
        test_hash=evaluation.test_hash,
        rows=rows,
        ranks=settings.training.ranks,
        configuration=settings.model_dump(mode="json", by_alias=True),
        metrics=evaluation.metrics,
        champion=evaluation.champion,
        hardware=read_history(workspace.training).environment,
        environment={"python": python_version(), **{d: version(d) for d in DISTRIBUTIONS}},
    )


def _reference(test: Path, signature: Signature, score: np.ndarray) -> pl.DataFrame:
    """Some test rows, evenly spaced in time, with what the trainer predicted for them."""
    inputs = pl.read_parquet(test, columns=[given.name for given in signature.inputs])
    rows = np.linspace(0, len(inputs) - 1, min(REFERENCE_ROWS, len(inputs))).astype(np.int64)
    names = score_columns(signature)
    scores = score[rows].reshape(len(rows), len(names))
    return inputs[rows].with_columns(
        pl.Series(name, scores[:, place]) for place, name in enumerate(names)
    )
