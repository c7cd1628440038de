"""What a rendered repo imports of the platform, and that its modules are the examples', unchanged."""

import ast
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest
from copier import run_copy
from pipeline.flights import configure, make_small, materialize
from support import ROOT, commit, run

pytestmark = pytest.mark.xdist_group("public-api")
PUBLIC = {
    "modelyard.delivery",
    "modelyard.documents",
    "modelyard.pipeline",
    "modelyard.pipeline.testing",
    "modelyard.serving",
    "modelyard.serving.testing",
}
STARTS = [
    (start, task)
    for start in ("flights", "blank")
    for task in ("binary", "multiclass", "regression")
]
MODULES = ("contract", "data", "features", "model", "network", "train")


@pytest.fixture(scope="module")
def rendered(
    platform: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], Path]:
    folder = tmp_path_factory.mktemp("rendered")

    def repo(start: str, task: str) -> Path:
        path = folder / f"{start}-{task}"
        if not path.exists():
            given: dict[str, object] = {"project_name": "flight-delay", "owner": "acme"}
            given |= {"task": task, "example": start == "flights"}
            run_copy(str(platform), path, given, defaults=True, quiet=True)
        return path

    return repo


def outside(repo: Path) -> Iterator[str]:
    """Imports of the platform that are not public, as `file:line: what`."""
    for file in sorted(repo.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and not node.level and node.module:
                found = [(node.module, alias.name) for alias in node.names]
            elif isinstance(node, ast.Import):
                found = [(alias.name, "") for alias in node.names]
            else:
                continue
            for module, name in found:
                if module.partition(".")[0] == "modelyard" and not public(module, name):
                    yield f"{file.relative_to(repo)}:{node.lineno}: {module} {name}".strip()


def public(module: str, name: str) -> bool:
    return module in PUBLIC and (not name or name in import_module(module).__all__)


@pytest.mark.parametrize(("start", "task"), STARTS)
def test_a_rendered_repo_imports_nothing_but_the_public_api(
    start: str, task: str, rendered: Callable[[str, str], Path]
) -> None:
    assert list(outside(rendered(start, task))) == []


@pytest.mark.parametrize(
    "line",
    [
        "from modelyard.pipeline.orchestration import assets",
        "from modelyard.pipeline import orchestration",
        "from modelyard.serving.testing import os",
        "import modelyard.pipeline.training.session",
        "def later():\n    from modelyard.documents.signature import Number",
    ],
)
def test_an_import_of_anything_else_is_found(line: str, tmp_path: Path) -> None:
    (tmp_path / "network.py").write_text(f"import torch\nfrom .train import Settings\n{line}\n")
    (found,) = outside(tmp_path)
    assert found.startswith("network.py:") and "modelyard." in found


@pytest.mark.parametrize(("start", "task"), STARTS)
def test_modules_are_the_examples_unchanged(
    start: str, task: str, rendered: Callable[[str, str], Path]
) -> None:
    """Nothing in them may look like Jinja, which renders them."""
    package = rendered(start, task) / "src" / "flight_delay"
    for name in MODULES:
        example = ROOT / "examples" / start / task / f"{name}.py"
        assert (package / f"{name}.py").read_text() == example.read_text(), example


@pytest.mark.parametrize(("start", "task"), STARTS)
def test_a_rendered_repo_keeps_its_own_style(
    start: str, task: str, rendered: Callable[[str, str], Path]
) -> None:
    ruff, repo = Path(sys.executable).with_name("ruff"), rendered(start, task)
    run(ruff, "check", "--no-cache", ".", cwd=repo)
    run(ruff, "format", "--no-cache", "--check", ".", cwd=repo)


@pytest.mark.parametrize("start", ["flights", "blank"])
@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_examples_of_a_task_differ_in_the_target_alone(start: str, task: str) -> None:
    def parts(task: str) -> tuple[str, str]:
        text = (ROOT / "examples" / start / task / "features.py").read_text()
        before, _, rest = text.partition("TARGET = ")
        before = before.partition("\nLATE_MINUTES")[0].partition("\nEARLY_MINUTES")[0]
        return before.rstrip(), rest.partition("    inputs=(")[2]

    assert parts(task) == parts("binary")


@pytest.mark.parametrize("start", ["flights", "blank"])
def test_the_tests_of_an_example_call_the_package_by_its_new_name(
    start: str, rendered: Callable[[str, str], Path]
) -> None:
    repo = rendered(start, "binary")
    texts = [file.read_text() for file in (repo / "tests").glob("*.py")]
    assert len(texts) == 4 and not any("examples" in text for text in texts)
    assert sum("from flight_delay." in text for text in texts) == 3
