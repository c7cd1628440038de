"""The rooms never import one another (contracts in pyproject.toml), nor do tests."""

import ast
import shutil
import sys
from pathlib import Path

import pytest
from support import ROOT, run

TESTS = ROOT / "tests"
LINTER = Path(sys.executable).with_name("lint-imports")


def test_walls_stand() -> None:
    run(LINTER, "--no-cache", cwd=ROOT)


@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("dagster_project/modelyard/pipeline", "import modelyard.serving\n"),
        ("bentos/modelyard/serving", "import dagster\n"),
        ("argo/modelyard/delivery", "import torch\n"),
        ("common/modelyard/documents", "import polars\n"),
    ],
)
def test_a_hole_in_a_wall_is_found(room: str, line: str, tmp_path: Path) -> None:
    for part in ("common", "dagster_project", "bentos", "argo", "pyproject.toml"):
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, tmp_path / part)
    (tmp_path / room / "hole.py").write_text(line)
    path = ":".join(str(tmp_path / p) for p in ("common", "dagster_project", "bentos", "argo"))
    printed = run(LINTER, "--no-cache", cwd=tmp_path, check=False, PYTHONPATH=path)
    assert "1 broken" in printed, printed


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
