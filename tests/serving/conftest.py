"""Small model packages of each task, and a model repo around them."""

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import torch

from modelyard.documents import Manifest, Signature, write_manifest
from modelyard.documents.signature import Category, Number
from modelyard.serving.encoding import Encoder

TEMPLATE = Path(__file__).parents[2] / "template"
TASKS = ("binary", "multiclass", "regression")
INPUTS = (
    Number(name="distance", minimum=0, maximum=5000, unit="miles"),
    Number(name="hour", integer=True, minimum=0, maximum=23),
    Number(name="wind", nullable=True),
    Category(name="carrier", values=("AA", "B6", "UA")),
    Category(name="dest", values=("BOS", "LAX"), nullable=True, open=True),
)
ROW = {"distance": 1400.0, "hour": 17, "wind": 12.5, "carrier": "AA", "dest": "LAX"}
CLASSES = {"binary": ("on time", "late"), "multiclass": ("early", "late", "lost"), "regression": ()}


class Network(torch.nn.Module):
    """Impute, embed, one linear layer: as small as a model with all kinds of inputs can be."""

    def __init__(self, outputs: int, task: str) -> None:
        super().__init__()
        self.task = task
        self.register_buffer("middle", torch.tensor([1000.0, 12.0, 10.0]))
        self.register_buffer("spread", torch.tensor([700.0, 5.0, 6.0]))
        self.embeddings = torch.nn.ModuleList([torch.nn.Embedding(4, 2), torch.nn.Embedding(3, 2)])
        self.linear = torch.nn.Linear(7, outputs)

    def forward(self, numbers: torch.Tensor, categories: torch.Tensor) -> torch.Tensor:
        """numbers float32 [N, 3], categories int64 [N, 2] → score float32 [N] or [N, classes]."""
        known = torch.where(torch.isnan(numbers), self.middle, numbers)
        parts = [e(categories[:, i]) for i, e in enumerate(self.embeddings)]
        out = self.linear(torch.cat([(known - self.middle) / self.spread, *parts], dim=1))
        if self.task == "multiclass":
            return out.softmax(dim=1)
        return out.squeeze(1).sigmoid() if self.task == "binary" else out.squeeze(1) * 100


def reference_rows(rows: int = 300) -> list[dict]:
    """Valid rows with each kind of missing and unlisted value."""
    return [
        {
            "distance": float(i * 16),
            "hour": i % 24,
            "wind": None if i % 7 == 0 else i / 10,
            "carrier": ("AA", "B6", "UA")[i % 3],
            "dest": ("BOS", None, "SFO")[i % 3],
        }
        for i in range(rows)
    ]


def write_package(
    folder: Path, task: str = "binary", name: str = "flight-delay", skew: float = 0
) -> Path:
    """A whole, verified package in `folder`; `skew` is added to what the trainer claims."""
    torch.manual_seed(0)
    folder.mkdir(parents=True)
    signature = Signature(
        task=task, target="late", inputs=INPUTS, classes=CLASSES[task], example=ROW
    )
    network = Network(3 if task == "multiclass" else 1, task).eval()
    rows = torch.export.Dim("rows", min=1)
    example = (torch.zeros(2, 3), torch.zeros(2, 2, dtype=torch.int64))
    program = torch.export.export(network, example, dynamic_shapes=({0: rows}, {0: rows}))
    torch.export.save(program, folder / "model.pt2")
    reference = reference_rows()
    numbers, categories = map(torch.from_numpy, Encoder(signature).encode(reference))
    with torch.inference_mode():
        scores = network(numbers, categories).numpy() + skew
    frame = pl.DataFrame(reference)
    if task == "multiclass":
        scored = [pl.Series(f"score_{c}", scores[:, i]) for i, c in enumerate(signature.classes)]
    else:
        scored = [pl.Series("score", scores)]
    frame.with_columns(scored).write_parquet(folder / "reference.parquet")
    (folder / "signature.json").write_text(signature.model_dump_json(indent=2))
    (folder / "model_card.md").write_text(f"# {name}\n")
    write_manifest(folder, manifest(name))
    return folder


def manifest(name: str) -> Manifest:
    return Manifest(
        name=name,
        created="2026-01-01T00:00:00Z",
        git_commit="0" * 40,
        template_version="1.0.0",
        data_hash="d",
        test_hash="t",
        rows={"test": 300},
        ranks=1,
        configuration={},
        metrics={"auc": 0.7},
        environment={"torch": torch.__version__},
    )


def write_repo(folder: Path, name: str = "flight-delay") -> Path:
    """The files of a model repo that serving reads."""
    (folder / "bentos").mkdir(parents=True)
    (folder / "pyproject.toml").write_text(f'[project]\nname = "{name}"\nversion = "0.1.0"\n')
    service = (TEMPLATE / "bentos" / "service.py").read_text()
    (folder / "bentos" / "service.py").write_text(service)
    return folder


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Task → its package, built once a session; never written to."""
    folder = tmp_path_factory.mktemp("packages")
    built: dict[str, Path] = {}

    def package(task: str) -> Path:
        if task not in built:
            built[task] = write_package(folder / task / "1", task)
        return built[task]

    return package
