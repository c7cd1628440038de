"""Curves of trainings: in MLflow and Dagster while they train, one run from start to package."""

import json
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from pipeline.packages import write_package
from pipeline.ranks import MODULE, SIGNATURE, small

from modelyard.documents import UserError
from modelyard.pipeline.data.synthetic import draw
from modelyard.pipeline.launchers.local import TorchLauncher
from modelyard.pipeline.orchestration import assets
from modelyard.pipeline.storage.workspace import Workspace
from modelyard.pipeline.tracking import live_metrics, mlflow_runs
from modelyard.pipeline.tracking.registry import register
from modelyard.pipeline.training.workdir import (
    HISTORY,
    REPORTS,
    WEIGHTS,
    Epoch,
    History,
    Unfinished,
)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without runs: it takes seconds to make."""
    made = Workspace(tmp_path_factory.mktemp("mlflow"))
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        with mlflow_runs.connected(made):
            return made.state / "mlflow.db"


@pytest.fixture
def workspace(database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in ("PATIENCE", "HURRY"):
        monkeypatch.setattr(live_metrics, name, 60)  # the machine may be busy
    made = Workspace(tmp_path)
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "flight-delay"\n')
    made.training.mkdir(parents=True)
    shutil.copy(database, made.state / "mlflow.db")
    return made


def runs(workspace: Workspace) -> list[Run]:
    """Oldest first."""
    client = MlflowClient(f"sqlite:///{workspace.state / 'mlflow.db'}")
    found = client.get_experiment_by_name("flight-delay")
    order = ["attributes.start_time ASC"]
    return client.search_runs([found.experiment_id], order_by=order) if found else []


def curve(workspace: Workspace, run: Run, name: str = "validation_loss") -> list[tuple]:
    client = MlflowClient(f"sqlite:///{workspace.state / 'mlflow.db'}")
    return [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)]


def epoch(number: int) -> Epoch:
    return Epoch(
        epoch=number, train_loss=1 / number, validation_loss=2 / number, seconds=0.5, rows=100,
        learning_rate=0.1, metrics={"auc": 0.5}, ended=time.time(),
    )  # fmt: skip


def report(workspace: Workspace, **payload: object) -> None:
    """As rank 0 does it."""
    with (workspace.training / REPORTS).open("a") as file:
        message = {"method": "report_custom_message", "params": {"payload": payload}}
        file.write(json.dumps(message) + "\n")


def finish(workspace: Workspace, epochs: int) -> None:
    history = History(
        ranks=2, rows=100, best_epoch=epochs, best_validation_loss=2 / epochs, seconds=1,
        epochs=tuple(epoch(number + 1) for number in range(epochs)),
    )  # fmt: skip
    (workspace.training / HISTORY).write_text(history.model_dump_json())


def train(workspace: Workspace, training: Callable[[], object]) -> dg.DagsterInstance:
    """`training` in the place of the launcher, followed inside a Dagster run."""
    instance = dg.DagsterInstance.ephemeral()

    @dg.asset
    def weights(context: dg.AssetExecutionContext) -> None:
        with live_metrics.followed(context, workspace, small()):
            training()

    dg.materialize([weights], instance=instance)
    return instance


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_an_epoch_is_there_while_the_next_one_trains(workspace: Workspace) -> None:
    def training() -> None:
        report(workspace, begun={"ranks": 2})
        for number in (1, 2):
            report(workspace, epoch=epoch(number).model_dump())
            wait_for(lambda n=number: (r := runs(workspace)) and len(curve(workspace, r[0])) == n)
            assert runs(workspace)[0].info.status == "RUNNING"
        finish(workspace, epochs=3)  # whose last epoch was not heard

    instance = train(workspace, training)
    (run,) = runs(workspace)
    assert run.info.status == "FINISHED"
    assert curve(workspace, run) == [(1, 2.0), (2, 1.0), (3, 2 / 3)]
    assert curve(workspace, run, "rows_per_second") == [(1, 200), (2, 200), (3, 200)]
    assert run.data.metrics["validation_auc"] == 0.5 and run.data.metrics["best_epoch"] == 3
    assert run.data.params["training.learning_rate"] == "0.01"
    assert run.data.tags["world_size"] == "2" and run.data.tags["git_commit"] == "uncommitted"
    assert run.data.tags["dagster_run"]
    seen = instance.fetch_observations(dg.AssetKey("weights"), limit=10, ascending=True).records
    figures = [r.asset_observation.metadata for r in seen if r.asset_observation]
    assert [f["epoch"].value for f in figures] == [1, 2]
    assert [f["validation_loss"].value for f in figures] == [2.0, 1.0]


def test_the_package_joins_the_run_of_its_training(workspace: Workspace) -> None:
    def training() -> None:
        (workspace.training / mlflow_runs.RUN).unlink(missing_ok=True)  # as the launcher does it
        report(workspace, begun={"ranks": 2})
        finish(workspace, epochs=1)

    train(workspace, training)
    write_package(workspace, b"first", {"training": small().model_dump(mode="json")})
    register(workspace)
    (run,) = runs(workspace)
    assert run.info.run_name == "version 1" and run.info.status == "FINISHED"
    assert run.data.metrics.keys() >= {"mae", "best_validation_loss", "validation_loss"}
    assert run.data.params["training.ranks"] == "2"
    # A run that has a package keeps it; so does one of another configuration.
    register(workspace)
    assert [r.info.run_name for r in runs(workspace)] == ["version 1", "version 2"]
    train(workspace, training)
    write_package(workspace, b"third", {"training": small(seed=1).model_dump(mode="json")})
    register(workspace)
    found = runs(workspace)
    assert [len(curve(workspace, r)) for r in found] == [1, 0, 1, 0]
    assert [r.data.tags.get("package") is not None for r in found] == [True, True, False, True]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UserError("training: rank 1 failed with ValueError"), "FAILED"),
        (Unfinished("training: stopped by SIGTERM; run it again to go on"), "KILLED"),
        (KeyboardInterrupt(), "KILLED"),
    ],
)
def test_how_a_run_ends(error: BaseException, status: str, workspace: Workspace) -> None:
    def training() -> None:
        report(workspace, epoch=epoch(1).model_dump())
        raise error

    with pytest.raises(BaseException):  # noqa: B017
        train(workspace, training)
    (run,) = runs(workspace)
    assert run.info.status == status and curve(workspace, run) == [(1, 2.0)]


def test_a_training_that_never_began_leaves_no_run(workspace: Workspace) -> None:
    with pytest.raises(UserError):
        train(workspace, lambda: (_ for _ in ()).throw(UserError("too few rows")))
    assert runs(workspace) == []


def test_what_was_killed_does_not_run_for_ever(workspace: Workspace) -> None:
    with mlflow_runs.connected(workspace) as client:
        mlflow_runs.begin(client, workspace, {}, {"git_commit": "c0ffee"})

    def training() -> None:
        (workspace.training / mlflow_runs.RUN).unlink()  # the launcher makes the folder anew
        report(workspace, begun={"ranks": 2})
        finish(workspace, epochs=1)

    train(workspace, training)
    assert [run.info.status for run in runs(workspace)] == ["KILLED", "FINISHED"]


def test_a_server_that_fails_at_first_gets_one_run(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, tries = mlflow_runs.log, []

    def log(*given: Any, **named: Any) -> None:
        tries.append(given)
        if len(tries) < 3:
            raise ConnectionError("away")
        whole(*given, **named)

    monkeypatch.setattr(mlflow_runs, "log", log)

    def training() -> None:
        for number in (1, 2, 3):
            report(workspace, epoch=epoch(number).model_dump())
            wait_for(lambda n=number: len(tries) >= n)
        finish(workspace, epochs=3)

    train(workspace, training)
    (run,) = runs(workspace)
    assert run.info.status == "FINISHED" and len(curve(workspace, run)) == 3
    assert run.data.params["training.learning_rate"] == "0.01"


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("kind", ["dead", "silent"])
def test_a_server_that_does_not_answer_costs_a_warning(
    kind: str,
    silent: str,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    uri = silent if kind == "silent" else "http://127.0.0.1:9"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.replace("//", "//me:secret@"))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(live_metrics, "PATIENCE", 3)
    monkeypatch.setattr(live_metrics, "WAITING", 2)

    def training() -> None:
        for number in range(1, 6):
            report(workspace, epoch=epoch(number).model_dump())
            time.sleep(live_metrics.POLL)
        finish(workspace, epochs=5)

    instance = train(workspace, training)
    printed = capfd.readouterr().out
    assert printed.count("warning: ") == 1 and "no curve in MLflow: " in printed and uri in printed
    assert "secret" not in printed
    seen = instance.fetch_observations(dg.AssetKey("weights"), limit=10).records
    assert len(seen) == 5


@pytest.mark.slow
def test_a_training_that_goes_on_does_so_in_its_run(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real ranks, told to stop in mid-epoch; by another number of ranks then."""
    folder = workspace.root
    text = MODULE.format(fault="stopped", folder=str(folder))
    ends = "progress.validated(run.mean_over_validation(sums)"
    assert ends in text
    (folder / "planted.py").write_text(text.replace(ends, f"{ends}, epochs=epoch"))
    for seed, name in enumerate(("train", "validation")):
        workspace.dataset(name).parent.mkdir(parents=True, exist_ok=True)
        draw(SIGNATURE, 1001, seed).write_parquet(workspace.dataset(name))
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=":")

    @dg.asset
    def weights(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        launcher = TorchLauncher(threads=1)
        return assets.train(context, launcher, "planted", workspace, settings, SIGNATURE)

    settings = small()
    with pytest.raises(Unfinished, match="stopped by SIGTERM"):
        dg.materialize([weights])
    (run,) = runs(workspace)
    assert run.info.status == "KILLED" and [step for step, _ in curve(workspace, run)] == [1]
    assert run.data.tags["world_size"] == "2"
    settings = small(ranks=1)
    shown = dg.materialize([weights]).asset_materializations_for_node("weights")[0].metadata
    assert (workspace.training / WEIGHTS).exists() and shown["best_validation_loss"].value
    (run,) = runs(workspace)
    assert run.info.status == "FINISHED" and run.data.tags["world_size"] == "1"
    assert [step for step, _ in curve(workspace, run)] == [1, 2, 3]
    assert curve(workspace, run, "validation_epochs") == [(1, 1), (2, 2), (3, 3)]
