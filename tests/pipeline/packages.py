"""A model package whose model is a few bytes: enough for a registry."""

from datetime import UTC, datetime
from typing import Any

from modelyard.documents import Manifest, Signature, write_manifest
from modelyard.documents.signature import Number
from modelyard.pipeline.storage.workspace import Workspace

SIGNATURE = Signature(task="regression", target="y", inputs=(Number(name="a"),))


def write_package(
    workspace: Workspace, model: bytes, configuration: dict[str, Any] | None = None
) -> None:
    package = workspace.package
    package.mkdir(parents=True, exist_ok=True)
    (package / "model.pt2").write_bytes(model)
    (package / "plots").mkdir(exist_ok=True)
    (package / "plots" / "p.png").write_bytes(b"picture")
    (package / "signature.json").write_text(SIGNATURE.model_dump_json())
    manifest = Manifest(
        name="flight-delay",
        created=datetime.now(UTC).isoformat(),
        git_commit="c0ffee",
        template_version="v1",
        data_hash="d",
        test_hash="t",
        rows={"raw": 10},
        ranks=2,
        configuration=configuration or {"training": {"epochs": 3}, "gate": {"slices": ["a"]}},
        metrics={"mae": 1.5},
        environment={"python": "3.11"},
    )
    write_manifest(package, manifest)
