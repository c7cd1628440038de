"""The rooms never import one another, floors only those below (contracts in pyproject.toml)."""

import ast
import shutil
import sys
from pathlib import Path

import pytest
from support import ROOT, run

TESTS = ROOT / "tests"
LINTER = Path(sys.executable).with_name("lint-imports")
FLOORS = "Delivery has floors: an import goes down, never up or sideways"


def test_walls_stand() -> None:
    run(LINTER, "--no-cache", cwd=ROOT)


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("dagster_project/modelyard/pipeline/hole.py", "import modelyard.serving",
         "The rooms never import one another"),
        ("bentos/modelyard/serving/hole.py", "import dagster",
         "The serving image holds no orchestrator and no registry client"),
        ("argo/modelyard/delivery/gates/hole.py", "import torch",
         "The release controller holds no torch and no orchestrator"),
        ("common/modelyard/documents/hole.py", "import polars",
         "The documents need pydantic and PyYAML only"),
        ("common/modelyard/documents/hole.py", "import modelyard.statistics.sequential",
         "The documents know no statistics"),
        ("common/modelyard/statistics/hole.py", "import modelyard.documents",
         "The statistics need numpy only"),
        ("argo/modelyard/delivery/gates/hole.py", "import modelyard.delivery.release.state",
         FLOORS),
        ("argo/modelyard/delivery/local/hole.py", "import modelyard.delivery.manifests.objects",
         FLOORS),
        ("argo/modelyard/delivery/hole.py", "", FLOORS),
        ("argo/modelyard/delivery/gates/verdicts.py", "import modelyard.delivery.gates.trial",
         "No import of delivery goes in a circle, on a floor neither"),
        ("bentos/modelyard/serving/observability/hole.py", "import modelyard.serving.testing",
         "The floors of serving: an import goes down"),
        ("bentos/modelyard/serving/hole.py", "", "The floors of serving: an import goes down"),
        ("common/modelyard/coding/hole.py", "import pyarrow",
         "The coding of the signature needs numpy only"),
    ],
)  # fmt: skip
def test_a_hole_is_found(file: str, line: str, contract: str, tmp_path: Path) -> None:
    """Upward, sideways, in a circle, or in a module that stands on no floor."""
    printed = linted(tmp_path, file, line)
    broken = [each.removesuffix(" BROKEN") for each in printed.splitlines() if "BROKEN" in each]
    assert contract in broken, printed


def linted(tmp_path: Path, file: str, line: str) -> str:
    """What the linter prints of a copy of this repository in which a file has one line more."""
    for part in ("common", "dagster_project", "bentos", "argo", "pyproject.toml"):
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, tmp_path / part)
    with (tmp_path / file).open("a") as changed:
        changed.write(f"{line}\n")
    path = ":".join(str(tmp_path / p) for p in ("common", "dagster_project", "bentos", "argo"))
    return run(LINTER, "--no-cache", cwd=tmp_path, check=False, PYTHONPATH=path)


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
