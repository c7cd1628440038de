"""A search: its space, real trials under torchrun, pruning, Ctrl-C, the change to config.yaml."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from pipeline.flights import configure
from pipeline.ranks import MODULE, SIGNATURE, gone, small
from pipeline.searches import settings
from support import run

from modelyard.cli import script
from modelyard.documents import UserError
from modelyard.pipeline.config.search_space import Choices, Range, SearchSettings
from modelyard.pipeline.config.settings import TrainingSettings
from modelyard.pipeline.data.synthetic import draw
from modelyard.pipeline.orchestration import tuning
from modelyard.pipeline.storage.workspace import Workspace
from modelyard.pipeline.training.workdir import CHECKPOINTS
from modelyard.pipeline.tuning.plots import draw as draw_study
from modelyard.pipeline.tuning.search import STORAGE, describe
from modelyard.pipeline.tuning.study import (
    SPEC,
    VALUES,
    Failure,
    answering,
    failure_file,
    open_study,
)
from modelyard.pipeline.tuning.worker import _stop_if_hopeless


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("learning_rate: {from: 0.1, to: 0.01}", r"from \(0.1\) must be less than to \(0.01\)"),
        ("learning_rate: {from: 0, to: 0.1, log: true}", "log: from .0. must be more than 0"),
        ("learning_rate: {from: 0, to: 0.1}", "0: Input should be greater than 0"),
        ("learning_rate: {from: 0.1, to: 1, upto: 1}", "upto: Extra inputs are not permitted"),
        ("learning_rate: {choices: [0.1]}", "at least 2 items"),
        ("learnign_rate: {from: 0.1, to: 1}", "no setting of training: there are accumulate, "),
        ("batch_rows: {from: 1, to: 100}", r"1: batch_rows \(1\) must be ranks × accumulate"),
        ("precision: {from: 16, to: 32}", r"is no number: give choices: \[...\]"),
        ("precision: {choices: [float32, float16]}", "float16: Input should be 'float32' or"),
        ("seed: {from: 1, to: 9}", "says how long or where"),
    ],
)
def test_a_bad_range_is_refused_with_its_line(line: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"config.yaml:11: tune\.space\..*{message}"):
        settings(tmp_path, line)


def test_an_empty_space_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="config.yaml:10: tune.space: "):
        settings(tmp_path)


def test_what_is_suggested() -> None:
    space = SearchSettings(
        space={
            "batch_rows": Range(first=100, last=200),
            "learning_rate": Range(first=0.001, last=0.1, log=True),
            "schedule": Choices(choices=("constant", "cosine")),
            "weight_decay": Range(first=0, last=1),
        }
    )
    space.check(small())
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        given = space.suggest(study.ask(), TrainingSettings)
        TrainingSettings.model_validate(given)
        assert isinstance(given["batch_rows"], int) and isinstance(given["weight_decay"], float)
        assert len(f"{given['learning_rate']:.10f}".lstrip("0.").rstrip("0")) <= 4
    assert space.current(small(batch_rows=150)) == {
        "batch_rows": 150, "learning_rate": 0.01, "schedule": '"constant"', "weight_decay": 0.01,
    }  # fmt: skip
    assert space.current(small(batch_rows=201)) is None


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """Train and validation set of 1,001 rows; there are no test months."""
    made = Workspace(tmp_path)
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "planted"\n')
    (tmp_path / "planted.py").write_text(MODULE.format(fault="", folder=str(tmp_path)))
    for seed, name in enumerate(("train", "validation")):
        made.dataset(name).parent.mkdir(parents=True, exist_ok=True)
        draw(SIGNATURE, 1001, seed).write_parquet(made.dataset(name))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return made


def trials(workspace: Workspace) -> list[optuna.trial.FrozenTrial]:
    storage = f"sqlite:///{workspace.state / 'tune.db'}"
    (study,) = optuna.get_all_study_summaries(storage)
    return optuna.load_study(study_name=study.study_name, storage=storage).get_trials()


@pytest.mark.xdist_group("tune")
def test_a_study_prunes_and_finds_the_better_half(
    workspace: Workspace, capfd: pytest.CaptureFixture[str]
) -> None:
    given = settings(
        workspace.root, "learning_rate: {choices: [0.05, 0.0000001, 0.0000002, 0.0000003]}"
    )

    def search(**how: Any) -> dict[str, Any]:
        made = tuning.search(workspace, given, "planted", SIGNATURE, tuning.Search(**how))
        return dict(made.metadata or {})

    first = search(trials=1)
    assert trials(workspace)[0].user_attrs[VALUES] == {"learning_rate": 0.05}  # as it is
    shown = search(workers=2)
    printed = capfd.readouterr().out
    assert "going on with 1 of 3 trials done" in printed
    found = trials(workspace)
    assert len([t for t in found if t.state.name in ("COMPLETE", "PRUNED")]) >= 3
    pruned = [t for t in found if t.state.name == "PRUNED"]
    assert pruned and all(t.user_attrs[VALUES]["learning_rate"] < 0.01 for t in pruned)
    assert all(len(t.intermediate_values) < 3 for t in pruned)
    assert "worse than the others were" in printed
    best = json.loads((workspace.state / "tune" / "best.json").read_text())
    assert best["values"] == {"learning_rate": 0.05}
    assert shown["validation_loss"] <= first["validation_loss"]
    pictures = {path.name for path in (workspace.state / "tune").glob("*.png")}
    assert pictures == {"history.png", "epochs.png", "slices.png"}
    # Another space, other data or other code is another study.
    other = settings(workspace.root, "learning_rate: {choices: [0.05, 0.01]}")
    spec = [
        describe(workspace, s.training, s.tune, "planted", SIGNATURE)
        for s in (given, other)
        if s.tune
    ]
    assert spec[0].name != spec[1].name


def test_pictures_of_a_longer_study(tmp_path: Path) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))

    def loss(trial: optuna.Trial) -> float:
        value = trial.suggest_float("dropout", 0, 0.5)
        trial.suggest_categorical("hidden", ["[64]", "[128, 64]"])
        trial.report(value, 1)
        return value

    study.optimize(loss, n_trials=10)
    draw_study(study, tmp_path)
    pictures = {path.stem for path in tmp_path.glob("*.png")}
    assert pictures == {"history", "epochs", "slices", "importances"}


@pytest.mark.slow
@pytest.mark.xdist_group("tune")
def test_ctrl_c_keeps_the_trial(workspace: Workspace) -> None:
    given = settings(workspace.root, "learning_rate: {from: 0.01, to: 0.1}")
    assert given.tune
    training = given.training.model_copy(update={"checkpoint_seconds": 0, "epochs": 8})
    spec = describe(workspace, training, given.tune, "planted", SIGNATURE, trials=1)
    folder = workspace.state / "tune"
    folder.mkdir()
    (folder / SPEC).write_text(spec.model_dump_json(by_alias=True))
    command = [sys.executable, "-m", "modelyard.pipeline.tuning.worker", str(folder), "1"]
    worker = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    while not list(folder.glob(f"*/{CHECKPOINTS}/0*")):
        assert worker.poll() is None
        time.sleep(0.02)
    worker.send_signal(signal.SIGINT)
    worker.communicate()
    assert worker.returncode == 130
    stopped, waiting = trials(workspace)
    assert (stopped.state.name, waiting.state.name) == ("FAIL", "WAITING")
    printed = run(*command, cwd=workspace.root)
    assert "going on from the checkpoint" in printed
    done = trials(workspace)[1]
    assert done.state.name == "COMPLETE" and done.params == stopped.params


SEARCH = """
import sys
from pathlib import Path
from pipeline.ranks import SIGNATURE
from pipeline.searches import settings
from modelyard.pipeline.orchestration import tuning
from modelyard.pipeline.storage.workspace import Workspace
workspace = Workspace(Path(sys.argv[1]))
given = settings(workspace.root, "learning_rate: {from: 0.01, to: 0.1}")
tuning.search(workspace, given, "planted", SIGNATURE, tuning.Search(trials=2))
"""


@pytest.mark.slow
@pytest.mark.xdist_group("tune")
def test_the_search_is_killed(workspace: Workspace) -> None:
    """Its workers leave too, and their trial comes again."""
    path = f"{os.environ['PYTHONPATH']}:{Path(__file__).parents[1]}"
    search = subprocess.Popen(
        [sys.executable, "-c", SEARCH, str(workspace.root)],
        env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert search.stdout and "begins with" in search.stdout.readline()
    search.kill()
    search.communicate()
    assert gone(workspace.root)
    stopped, waiting = trials(workspace)
    assert (stopped.state.name, waiting.state.name) == ("FAIL", "WAITING")


@pytest.mark.slow
@pytest.mark.xdist_group("tune")
def test_what_failed_trials_and_databases_leave(workspace: Workspace) -> None:
    given = settings(workspace.root, "learning_rate: {from: 0.01, to: 0.1}")
    assert given.tune
    how = tuning.Search(trials=3)
    spec = describe(workspace, given.training, given.tune, "planted", SIGNATURE, how.trials)
    study = open_study(spec)
    for _ in range(2):
        study.ask().set_user_attr("error", "rank 1 failed with ValueError: no")
    _stop_if_hopeless(study, spec)
    (workspace.root / "planted.py").write_text("raise ValueError('no')\n")
    last = (
        "tune: 3 trials failed by themselves, the last one: training: rank . failed at .*ValueError"
    )
    with pytest.raises(UserError, match=last) as said:
        tuning.search(workspace, given, "planted", SIGNATURE, how)
    told = failure_file(workspace.state / "tune" / spec.name, 1).read_bytes()
    failed = Failure.model_validate_json(told)
    assert failed.kind == "mistake" and f"tune: {failed.message}; see " in str(said.value)
    log = re.search(r"its traceback is in (\S+);", str(said.value))
    assert log and "ValueError: no" in Path(log[1]).read_text()
    assert not (Path(log[1]).parent / "train").exists()
    (workspace.state / "tune.db").write_text("no database at all")
    failed = "^the study's database .*tune.db: .*not a database"
    with pytest.raises(UserError, match=failed), answering(spec):
        study.get_trials()


def test_a_database_that_is_not_there(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(STORAGE, "sqlite:////nowhere/tune.db")
    given = settings(workspace.root, "learning_rate: {from: 0.01, to: 0.1}")
    with pytest.raises(UserError, match="the study's database sqlite:////nowhere/tune.db: "):
        tuning.search(workspace, given, "planted", SIGNATURE, tuning.Search())


def test_without_a_space(workspace: Workspace) -> None:
    given = settings(workspace.root, "learning_rate: {from: 0.01, to: 0.1}")
    with pytest.raises(UserError, match="config.yaml has no block tune: say what to search"):
        tuning.search(
            workspace,
            given.model_copy(update={"tune": None}),
            "planted",
            SIGNATURE,
            tuning.Search(),
        )


@pytest.fixture
def searching(repo: Path) -> Iterator[Path]:
    """A flights repo whose search is one training."""
    text = (repo / "config.yaml").read_text()
    configure(repo, epochs=2)
    block = "\ntune:\n  trials: 1\n  space:\n    dropout: {choices: [0.2, 0.3]}\n"
    (repo / "config.yaml").write_text(
        (repo / "config.yaml").read_text().split("\ntune:")[0] + block
    )
    yield repo
    (repo / "config.yaml").write_text(text)


@pytest.mark.slow
@pytest.mark.xdist_group("pipeline-repo")
def test_make_tune_of_a_rendered_repo(searching: Path) -> None:
    own = {"PYTHONPATH": str(searching / "src"), "DAGSTER_HOME": str(searching / ".dagster")}
    command = (script(), "tune")
    before = (searching / "config.yaml").read_text()
    printed = run(*command, cwd=searching, check=True, **own)
    assert "-  dropout: 0.1\n+  dropout: 0." in printed and "ARGS=--apply" in printed
    assert (searching / "config.yaml").read_text() == before
    assert not (searching / ".modelyard" / "training").exists()  # nothing beyond the data

    printed = run(*command, "--apply", cwd=searching, check=True, **own)
    assert "begins with" not in printed and "`make train` trains with it" in printed
    after = (searching / "config.yaml").read_text()
    changed = [b for a, b in zip(before.splitlines(), after.splitlines(), strict=True) if a != b]
    assert len(changed) == 1 and changed[0].startswith("  dropout: 0.")
    printed = run(*command, cwd=searching, check=False, **own)
    assert "the best configuration already" in printed or "begins with" in printed
