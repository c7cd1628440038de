"""The rooms never import one another, floors only those below (contracts in pyproject.toml)."""

import ast
import shutil
import sys
from pathlib import Path

import pytest
from support import ROOT, run

TESTS = ROOT / "tests"
LINTER = Path(sys.executable).with_name("lint-imports")

PIPELINE = "dagster_project/modelyard/pipeline"
SERVING = "bentos/modelyard/serving"
DELIVERY = "argo/modelyard/delivery"
COMMON = "common/modelyard"
FLOORS = "The floors of {}: an import goes down, never up or sideways"
CIRCLES = "No import goes in a circle, on one floor neither"


def test_walls_stand() -> None:
    run(LINTER, "--no-cache", cwd=ROOT)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        (f"{PIPELINE}/data/hole.py", "import modelyard.serving",
         "The rooms never import one another"),
        (f"{SERVING}/codec/hole.py", "import dagster",
         "The serving image holds no orchestrator and no registry client"),
        (f"{DELIVERY}/gates/hole.py", "import torch",
         "The release controller holds no torch and no orchestrator"),
        (f"{COMMON}/documents/hole.py", "import polars",
         "The documents need pydantic and PyYAML only"),
        (f"{COMMON}/documents/hole.py", "import modelyard.statistics.sequential",
         "The documents know no statistics"),
        (f"{COMMON}/statistics/hole.py", "import modelyard.documents",
         "The statistics need numpy only"),
        (f"{COMMON}/cli/hole.py", "import modelyard.serving.package",
         "The command for all rooms imports none of them"),
        (f"{COMMON}/documents/hole.py", "import modelyard.cli",
         "What the rooms have in common knows no commands"),
        (f"{COMMON}/coding/hole.py", "import pyarrow",
         "The coding of the signature needs numpy only"),
        (f"{PIPELINE}/data/hole.py", "import modelyard.pipeline.training.workdir",
         FLOORS.format("the pipeline")),
        (f"{PIPELINE}/tracking/hole.py", "import modelyard.pipeline.launchers.local",
         FLOORS.format("the pipeline")),
        (f"{PIPELINE}/on_no_floor.py", "", FLOORS.format("the pipeline")),
        (f"{PIPELINE}/training/workdir.py", "import modelyard.pipeline.training.loop", CIRCLES),
        (f"{SERVING}/observability/hole.py", "import modelyard.serving.testing",
         FLOORS.format("serving")),
        (f"{SERVING}/on_no_floor.py", "", FLOORS.format("serving")),
        (f"{DELIVERY}/gates/hole.py", "import modelyard.delivery.release.state",
         FLOORS.format("delivery")),
        (f"{DELIVERY}/local/hole.py", "import modelyard.delivery.manifests.objects",
         FLOORS.format("delivery")),
        (f"{DELIVERY}/on_no_floor.py", "", FLOORS.format("delivery")),
        (f"{DELIVERY}/gates/verdicts.py", "import modelyard.delivery.gates.trial", CIRCLES),
    ],
)  # fmt: skip
def test_a_hole_is_found(file: str, line: str, contract: str, tmp_path: Path) -> None:
    """Upward, sideways, in a circle, or in a module that stands on no floor."""
    for part in ("common", "dagster_project", "bentos", "argo", "pyproject.toml"):
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, tmp_path / part)
    with (tmp_path / file).open("a") as changed:
        changed.write(f"{line}\n")
    path = ":".join(str(tmp_path / p) for p in ("common", "dagster_project", "bentos", "argo"))
    printed = run(LINTER, "--no-cache", cwd=tmp_path, check=False, PYTHONPATH=path)
    broken = [each.removesuffix(" BROKEN") for each in printed.splitlines() if "BROKEN" in each]
    assert contract in broken, printed


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


def imported(path: Path) -> set[str]:
    """Modules, and names that may be modules."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_no_test_imports_the_module_of_another() -> None:
    """What several need stands beside them, in a module without tests."""
    modules = {
        ".".join(path.relative_to(TESTS).with_suffix("").parts) for path in TESTS.rglob("test_*.py")
    }
    found = {str(path.relative_to(TESTS)): imported(path) for path in TESTS.rglob("*.py")}
    assert {path: names & modules for path, names in found.items() if names & modules} == {}
