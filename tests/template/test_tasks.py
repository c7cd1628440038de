"""Each task, with the flights example and from a blank start: rendered, tested, trained, served.

The model repos run in this environment, with their sources on PYTHONPATH.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from support import commit

from modelyard.documents import verify_package
from modelyard.pipeline.evaluation import metrics
from modelyard.serving.model import Model

TASKS = ("binary", "multiclass", "regression")
SMALL = {
    r"months: .*?}": "months: {from: 2013-01, to: 2013-03}",
    r"train: .*": "train: {from: 2013-01, to: 2013-01}",
    r"validation: .*": "validation: {from: 2013-02, to: 2013-02}",
    r"test: .*": "test: {from: 2013-03, to: 2013-03}",
    r"epochs: \d+": "epochs: 3",
    r"batch_rows: \d+": "batch_rows: 1024",
    r"hidden: .*": "hidden: [32]",
}
"""One month each of training, validation and test, and few epochs."""


@pytest.fixture(scope="module", params=TASKS)
def task(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def example(render, task: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small(render(tmp_path_factory.mktemp(task) / "flight-delay", task=task))


@pytest.fixture(scope="module")
def blank(render, task: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(f"blank-{task}") / "shop-sales"
    return small(render(path, task=task, example=False, project_name="shop-sales"))


def small(repo: Path) -> Path:
    config = repo / "config.yaml"
    text = config.read_text()
    for pattern, replacement in SMALL.items():
        text, count = re.subn(pattern, replacement, text)
        assert count == 1, pattern
    config.write_text(text)
    commit(repo, "Train on little")
    return repo


def train(repo: Path) -> subprocess.CompletedProcess[str]:
    """The command behind `make train`, but for the registry, which no task changes."""
    return command(repo, "modelyard.pipeline.materialize", "--assets", "*model_package")


def command(repo: Path, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=repo,
        env={
            **os.environ,
            "PYTHONPATH": str(repo / "src"),
            "DAGSTER_HOME": str(repo / ".dagster"),
        },
        capture_output=True,
        text=True,
    )


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


def test_example_passes_its_own_tests(example: Path) -> None:
    own_tests(example, "--ignore=tests/test_service.py")


def test_blank_start_passes_its_own_tests(blank: Path, task: str) -> None:
    """All of them for one task: the others differ in the model alone."""
    own_tests(blank, "tests" if task == "binary" else "tests/test_model.py")


def own_tests(repo: Path, tests: str) -> None:
    done = command(repo, "pytest", "-q", tests)
    assert done.returncode == 0, done.stdout + done.stderr


def test_blank_start_names_the_three_files_to_fill_in(blank: Path) -> None:
    done = train(blank)
    assert done.returncode == 1
    for file in ("contract.py", "features.py", "defs/data.py"):
        assert done.stderr.count(f"src/shop_sales/{file}") == 1
    assert done.stderr.startswith("error: ") and "Traceback" not in done.stdout + done.stderr
    assert not list((blank / ".modelyard").rglob("*.parquet"))
