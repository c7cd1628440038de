"""The model package: a folder that the pipeline writes and serving reads.

The manifest lists every other file with its SHA-256, so the hash of the manifest names the whole
package.
"""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from modelyard.documents.errors import UserError
from modelyard.documents.files import sha256
from modelyard.documents.signature import Signature

MODEL = "model.pt2"
"""a `torch.export` archive, preprocessing inside the graph"""
ONNX = "model.onnx"
"""the same graph, where ONNX can express it"""
SIGNATURE = "signature.json"
MANIFEST = "manifest.json"
REFERENCE = "reference.parquet"
"""rows of the frozen test set: the inputs, and in `score_columns` what the trainer predicted"""
CARD = "model_card.md"
"""with its plots in `plots/`"""

SCORE = "score"
"""what a model's output is called wherever it has a name: columns, answers, metrics"""
SCORE_TOLERANCE = 1e-4
"""within which scores of one model are the same, whatever runtime computes them; relative above
1 (`modelyard.coding.same_scores`)"""


class Manifest(BaseModel):
    """Where a model comes from, and what it must be compared on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    created: str
    """ISO 8601, UTC; the commit's time, so that the same commit gives the same package"""
    git_commit: str
    template_version: str
    data_hash: str
    """of all feature partitions that the model has seen"""
    test_hash: str
    """of the frozen test set; two models are compared only where it is equal"""
    rows: dict[str, int]
    """raw, valid, quarantined, train, validation, test"""
    ranks: int
    configuration: dict[str, Any]
    metrics: dict[str, float]
    champion: int | None = None
    """the version that it was compared with"""
    hardware: dict[str, str] = {}
    """device, cpu (its instruction set) and threads of each rank: sums depend on them"""
    environment: dict[str, str]
    """distribution → version"""
    files: dict[str, str] = {}
    """path in the package → SHA-256"""


def score_columns(signature: Signature) -> list[str]:
    """Of a package's reference: `score`, or `score_<class>` for each class in their order."""
    if signature.task != "multiclass":
        return [SCORE]
    return [f"{SCORE}_{name}" for name in signature.classes]


def read_signature(package: Path) -> Signature:
    """
    Raises:
        OSError: there is none, or it can't be read.
        ValidationError: it is no signature.
    """
    return Signature.model_validate_json((package / SIGNATURE).read_bytes())


def write_manifest(package: Path, manifest: Manifest) -> str:
    """Write `manifest.json` over the files now in `package`; return the package's id.

    The id is the SHA-256 of the manifest's bytes.
    """
    files = {name: sha256(package / name) for name in sorted(_present(package))}
    text = manifest.model_copy(update={"files": files}).model_dump_json(indent=2)
    (package / MANIFEST).write_text(text + "\n")
    return sha256(package / MANIFEST)


def verify_package(package: Path) -> tuple[Manifest, Signature, str]:
    """Read a package whose every file is what its manifest says.

    Returns:
        the manifest, the signature, and the package's id.

    Raises:
        UserError: a file is missing, added or changed, or a document does not fit.
    """
    try:
        manifest = Manifest.model_validate_json((package / MANIFEST).read_bytes())
        present = _present(package)
        for what, names in {
            "missing": set(manifest.files) - present,
            "not in its manifest": present - set(manifest.files),
            "changed": {
                n for n in present & set(manifest.files) if sha256(package / n) != manifest.files[n]
            },
        }.items():
            if names:
                raise UserError(
                    f"model package {package}: {', '.join(sorted(names))}: {what}; "
                    "take the package from the registry again"
                )
        signature = read_signature(package)
    except FileNotFoundError as error:
        raise UserError(
            f"model package {package}: {Path(error.filename).name} is missing; "
            "take the package from the registry again"
        ) from None
    except ValidationError as error:
        raise UserError(f"model package {package}: {error}") from None
    return manifest, signature, sha256(package / MANIFEST)


def _present(package: Path) -> set[str]:
    """All files but the manifest, by their path in the package."""
    files = (path for path in package.rglob("*") if path.is_file())
    return {path.relative_to(package).as_posix() for path in files} - {MANIFEST}
