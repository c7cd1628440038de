"""`modelyard.pipeline`: each name is there, and nothing large comes with it unasked."""

import ast
import sys
from importlib import import_module
from pathlib import Path

import pytest
from support import ROOT, run

import modelyard.pipeline

LARGE = ("dagster", "mlflow", "polars", "torch")
CONFIG = """
data: {months: {from: 2013-01, to: 2013-03}}
split:
  train: {from: 2013-01, to: 2013-01}
  validation: {from: 2013-02, to: 2013-02}
  test: {from: 2013-03, to: 2013-03}
training: {hidden: [8]}
"""


def loaded(code: str, cwd: Path = ROOT) -> list[str]:
    """Which large libraries a fresh interpreter has after some code."""
    show = f"{code}\nimport sys; print(*[name for name in {LARGE} if name in sys.modules])"
    return run(sys.executable, "-c", show, cwd=cwd, PYTHONPATH=str(ROOT)).splitlines()[-1].split()


def test_every_public_name_is_what_a_type_checker_sees() -> None:
    """The imports for type checkers, and the table that names are loaded by."""
    tree = ast.parse(Path(str(modelyard.pipeline.__file__)).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {
        alias.asname or alias.name: getattr(import_module(node.module or ""), alias.name)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    names = modelyard.pipeline.__all__
    assert {name: getattr(modelyard.pipeline, name) for name in names} == seen
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = modelyard.pipeline.Nothing  # pyrefly: ignore[missing-attribute]


@pytest.mark.parametrize(
    ("code", "large"),
    [
        ("import modelyard.pipeline", []),
        ("from examples.flights.binary.train import Settings", []),
        ("from examples.flights.binary.features import SIGNATURE", ["polars"]),
        ("from examples.flights.binary.network import Network", ["torch"]),
    ],
)
def test_what_an_import_brings_along(code: str, large: list[str]) -> None:
    assert loaded(code) == large


def test_dagster_loads_the_definitions_without_torch(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)
    code = (
        "from dataclasses import replace; from pathlib import Path\n"
        "from examples.flights.binary.model import project\n"
        "there = replace(project, root=Path.cwd())\n"
        "assert there.config().training.hidden == (8,)\n"
        "assert 'weights' in {k.to_user_string() for k in "
        "there.definitions()().resolve_all_asset_keys()}"
    )
    assert loaded(code, tmp_path) == ["dagster", "polars"]


TRAIN = "from modelyard.pipeline import TrainingSettings\nclass Settings(TrainingSettings): ...\n"
MAIN = "def main(): ...\n"
NETWORK = "class Network: ...\n"


@pytest.mark.parametrize(
    ("train", "network", "asked", "message"),
    [
        (TRAIN + MAIN, NETWORK, "config()", "no config.yaml in any folder above "),
        (TRAIN + MAIN, "", "check_modules()", "lonely/network.py is not there; write"),
        (TRAIN, NETWORK, "check_modules()", "lonely/train.py has the settings, but no main()"),
        (TRAIN + MAIN, NETWORK, "build_network(Settings())", "lonely/network.py has no score"),
    ],
)
def test_a_model_that_lacks_a_part(
    train: str, network: str, asked: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "lonely").mkdir()
    (tmp_path / "lonely" / "train.py").write_text(train)
    if network:
        (tmp_path / "lonely" / "network.py").write_text(network)
    code = (
        "from modelyard.pipeline import Project; from lonely.train import Settings\n"
        "from examples.flights.binary.features import SIGNATURE\n"
        "Project(contract=object, read=print, features=print, signature=SIGNATURE, "
        f"settings=Settings).{asked}"
    )
    path = f"{tmp_path}:{ROOT}"
    printed = run(sys.executable, "-c", code, cwd=tmp_path, check=False, PYTHONPATH=path)
    last = printed.splitlines()[-1]
    assert "UserError: " in last and message in last
