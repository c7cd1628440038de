"""The rooms never import one another, nor a floor one above it (contracts in pyproject.toml)."""

import shutil
import sys
from pathlib import Path

import pytest
from support import ROOT, run

LINTER = Path(sys.executable).with_name("lint-imports")


def test_walls_stand() -> None:
    run(LINTER, "--no-cache", cwd=ROOT)


ROOMS = "The rooms never import one another"
FLOORS = "In the pipeline, an import goes down a floor, never up or sideways"
CIRCLES = "In the pipeline, no import goes in a circle"
PIPELINE = "dagster_project/modelyard/pipeline"


@pytest.mark.parametrize(
    ("module", "line", "broken"),
    [
        (f"{PIPELINE}/data/hole.py", "import modelyard.serving", ROOMS),
        (
            "bentos/modelyard/serving/hole.py",
            "import dagster",
            "The serving image holds no orchestrator and no registry client",
        ),
        (
            "argo/modelyard/delivery/hole.py",
            "import torch",
            "The release controller holds no torch and no orchestrator",
        ),
        (
            "common/modelyard/documents/hole.py",
            "import polars",
            "The documents need pydantic and PyYAML only",
        ),
        (f"{PIPELINE}/data/hole.py", "import modelyard.pipeline.training.workdir", FLOORS),
        (f"{PIPELINE}/tracking/hole.py", "import modelyard.pipeline.launchers.local", FLOORS),
        (f"{PIPELINE}/of_no_floor.py", "", FLOORS),
        (f"{PIPELINE}/training/workdir.py", "import modelyard.pipeline.training.loop", CIRCLES),
    ],
)
def test_a_hole_in_a_wall_is_found(module: str, line: str, broken: str, tmp_path: Path) -> None:
    for part in ("common", "dagster_project", "bentos", "argo", "pyproject.toml"):
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, tmp_path / part)
    with (tmp_path / module).open("a") as file:
        file.write(f"{line}\n")
    path = ":".join(str(tmp_path / p) for p in ("common", "dagster_project", "bentos", "argo"))
    printed = run(LINTER, "--no-cache", cwd=tmp_path, check=False, PYTHONPATH=path)
    assert f"{broken} BROKEN" in printed, printed


@pytest.mark.parametrize(
    "module",
    [
        "commands.fetch",
        "commands.reproduce",
        "commands.train",
        "launchers.kubernetes.entrypoint",
        "training.torchrun",
        "training.worker",
        "tuning.worker",
    ],
)
def test_what_starts_first_imports_nothing_heavy(module: str) -> None:
    """A floor's `__init__` would be imported with everything on it."""
    heavy = {"dagster", "kubernetes", "mlflow", "numpy", "optuna", "polars", "pyarrow", "torch"}
    code = f"import sys, modelyard.pipeline.{module}; print(*(sys.modules.keys() & {heavy}))"
    assert run(sys.executable, "-c", code, cwd=ROOT).split() == []
