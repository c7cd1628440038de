"""Each task, with the flights example and from a blank start: rendered, tested, trained, served.

The model repos run in this environment, with their sources on PYTHONPATH.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from pipeline.flights import make_small
from support import commit

from modelyard.cli import script
from modelyard.documents import verify_package
from modelyard.pipeline.evaluation.metrics import metrics
from modelyard.serving.inference.model import Model


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("binary", marks=pytest.mark.xdist_group("template-binary")),
        *(
            pytest.param(task, marks=[pytest.mark.xdist_group(f"template-{task}"), pytest.mark.slow])
            for task in ("multiclass", "regression")
        ),
    ],
)
def task(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def example(
    render: Callable[..., Path], sample: Path, task: str, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    repo = render(tmp_path_factory.mktemp(task) / "flight-delay", task=task)
    make_small(repo, sample)
    commit(repo, "Train on little")
    return repo


@pytest.fixture(scope="module")
def blank(render: Callable[..., Path], task: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(f"blank-{task}") / "shop-sales"
    return render(path, task=task, example=False, project_name="shop-sales")


def train(repo: Path) -> subprocess.CompletedProcess[str]:
    """The command behind `make train`, but for the registry, which no task changes."""
    return command(repo, "train", "--assets", "*model_package")


def command(repo: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(repo, str(script()), *arguments)


def run(repo: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=repo,
        env={
            **os.environ,
            "PYTHONPATH": str(repo / "src"),
            "DAGSTER_HOME": str(repo / ".dagster"),
        },
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_example_trains_to_a_package_that_predicts(example: Path, task: str) -> None:
    done = train(example)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 ranks" in done.stdout
    package = example / ".modelyard" / "package"
    manifest, signature, _ = verify_package(package)
    assert signature.task == task and manifest.ranks == 2
    assert 0 < manifest.rows["test"] < manifest.rows["raw"]
    assert (package / "model_card.md").read_text().count("plots/") >= 1

    model = Model(package)  # checks its scores against the trainer's
    test = pl.read_parquet(example / ".modelyard" / "data" / "test.parquet")
    rows = test.select(i.name for i in signature.inputs).head(5000).to_dicts()
    target = test[signature.target].head(5000).to_numpy()
    found = metrics(signature.task, target, model.scores(rows), signature.classes)
    if task == "regression":
        assert found["mae"] < 1.1 * np.abs(target - np.median(target)).mean()
    else:
        assert found["auc"] > 0.53  # after one month of training, better than chance
    (prediction,) = model.predict([dict(signature.example)])
    assert prediction.get("class", "none") in (*signature.classes, "none")
    assert ("class" in prediction) == (task != "regression")


@pytest.mark.slow
def test_example_passes_its_own_tests(example: Path) -> None:
    """Those that a blank start has not, or that read the example; the training is above."""
    row = "tests/test_model.py::test_the_example_row_has_the_declared_inputs"
    own_tests(example, "tests/test_data.py", "tests/test_release.py", row)


@pytest.mark.slow
def test_blank_start_passes_its_own_tests(blank: Path, task: str) -> None:
    """All of them for one task: the others differ in the model alone."""
    own_tests(blank, "tests" if task == "binary" else "tests/test_model.py")


def own_tests(repo: Path, *tests: str) -> None:
    done = run(repo, sys.executable, "-m", "pytest", "-q", *tests)
    assert done.returncode == 0, done.stdout + done.stderr


def test_blank_start_names_the_three_files_to_fill_in(blank: Path) -> None:
    done = train(blank)
    assert done.returncode == 1
    for file in ("contract.py", "features.py", "data.py"):
        assert done.stderr.count(f"src/shop_sales/{file}") == 1
    assert done.stderr.startswith("error: ") and "Traceback" not in done.stdout + done.stderr
    assert not list((blank / ".modelyard").rglob("*.parquet"))
