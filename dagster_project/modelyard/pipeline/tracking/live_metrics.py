"""A training's curve while it trains: an MLflow run and observations of the Dagster asset.

Both are written here, by what rank 0 reports: an image of the ranks needs no MLflow, and pods
no way to its server. Nothing of it is waited for before the training's end, and nothing that
fails here fails the training.
"""

import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import dagster as dg

from modelyard.pipeline.config.settings import WITHOUT_EFFECT, TrainingSettings
from modelyard.pipeline.storage.workspace import Workspace
from modelyard.pipeline.tracking import mlflow_runs
from modelyard.pipeline.training.workdir import (
    REPORTS,
    Epoch,
    History,
    Messages,
    Unfinished,
    read_history,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

POLL = 0.2
"""seconds between two looks at what rank 0 reports"""
PATIENCE = 30
"""seconds that MLflow has at the end, for what it was not given yet"""
HURRY = 5
"""seconds likewise, when the training was stopped: somebody waits"""
WAITING = 1000
"""epochs that may wait for a slow MLflow; it gets the others at the end"""


@contextmanager
def followed(
    context: dg.AssetExecutionContext, workspace: Workspace, settings: TrainingSettings
) -> Iterator[None]:
    """Follow the training that runs within the block, in `workspace.training`.

    Its run ends as FINISHED; as KILLED where it was stopped and may go on; else as FAILED.
    """
    messages = workspace.training / REPORTS
    messages.unlink(missing_ok=True)
    follower = CurveFollower(context, workspace, settings, Messages(messages))
    follower.start()
    status = "KILLED"
    try:
        yield
        status = "FINISHED"
    except Unfinished:
        raise
    except Exception:
        status = "FAILED"
        raise
    finally:
        follower.end(status)


class CurveFollower(threading.Thread):
    """Hears what rank 0 reports and passes it on."""

    def __init__(
        self,
        context: dg.AssetExecutionContext,
        workspace: Workspace,
        settings: TrainingSettings,
        messages: Messages,
    ) -> None:
        super().__init__(daemon=True)
        self._context, self._workspace, self._messages = context, workspace, messages
        self._ended = threading.Event()
        wanted = os.environ.get(mlflow_runs.SWITCH) != "off"
        self._writer = (
            Writer(workspace, settings, context.run.run_id, self._warn) if wanted else None
        )

    def run(self) -> None:
        try:
            ended = False
            while not ended:
                ended = self._ended.wait(POLL)
                for message in self._messages.new():
                    self._hear(message)
        except Exception as error:  # a full disk, Dagster's database
            self._warn(f"no curve in Dagster: {error}")

    def _hear(self, message: dict[str, Any]) -> None:
        if self._writer and self._writer.ident is None:
            self._writer.start()  # the first step is done: the ranks are not delayed any more
        if "epoch" not in message:
            return
        epoch = Epoch.model_validate(message["epoch"])
        if self._writer:
            self._writer.add(epoch)
        figures = {"epoch": epoch.epoch, **epoch.figures()}
        self._context.log_event(dg.AssetObservation(self._context.asset_key, metadata=figures))

    def end(self, status: str) -> None:
        """Called when the ranks have left."""
        self._ended.set()
        self.join()
        if self._writer and self._writer.is_alive():
            finished = status == "FINISHED"
            self._writer.end(status, read_history(self._workspace.training) if finished else None)

    def _warn(self, text: str) -> None:
        print(f"  warning: {text}; the training goes on", flush=True)
        self._context.log.warning(text)


class End(NamedTuple):
    status: str
    metrics: dict[str, float]


class Writer(threading.Thread):
    """Writes a training's run to MLflow, at MLflow's own pace."""

    def __init__(
        self,
        workspace: Workspace,
        settings: TrainingSettings,
        dagster_run: str,
        warn: Callable[[str], None],
    ) -> None:
        super().__init__(daemon=True)
        self._workspace, self._settings, self._warn = workspace, settings, warn
        self._dagster_run = dagster_run
        self._before = mlflow_runs.read(workspace)
        self._given: queue.Queue[Epoch | End] = queue.Queue(WAITING)
        self._run, self._known, self._warned = "", set[int](), False

    def add(self, epoch: Epoch) -> None:
        with suppress(queue.Full):
            self._given.put_nowait(epoch)

    def end(self, status: str, history: History | None) -> None:
        """Give the run what it lacks of the epochs, the final figures and its status."""
        patience = HURRY if status == "KILLED" else PATIENCE
        deadline = time.monotonic() + patience
        final = End(status, _final(history) if history else {})
        with suppress(queue.Full):
            for each in (*(history.epochs if history else ()), final):
                self._given.put(each, timeout=max(0.0, deadline - time.monotonic()))
        self.join(max(0.0, deadline - time.monotonic()))
        if self.is_alive():
            self._failed(f"{mlflow_runs.uri(self._workspace)} took more than {patience} s")

    def run(self) -> None:
        with suppress(OSError, AttributeError):  # on Linux a priority is a thread's own
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
        waiting: dict[int, Epoch] = {}
        end: End | None = None
        while end is None:
            for each in self._next():
                if isinstance(each, End):
                    end = each
                elif each.epoch not in self._known:
                    waiting.setdefault(each.epoch, each)
            try:
                self._write(waiting, end)
            except Exception as error:  # of a server, anything may be wrong
                self._failed(str(error))

    def _next(self) -> Iterator[Epoch | End]:
        """All that waits; one thing at least."""
        yield self._given.get()
        with suppress(queue.Empty):
            while True:
                yield self._given.get_nowait()

    def _write(self, waiting: dict[int, Epoch], end: End | None) -> None:
        with mlflow_runs.connected(self._workspace) as client:
            if not self._run:
                self._run, self._known = self._begin(client)
            new = {number: each for number, each in waiting.items() if number not in self._known}
            mlflow_runs.log_epochs(client, self._run, [*new.values()])
            self._known.update(new)
            waiting.clear()
            if end:
                mlflow_runs.log(client, self._run, metrics=end.metrics)
                client.set_terminated(self._run, end.status)

    def _begin(self, client: "MlflowClient") -> tuple[str, set[int]]:
        # MLflow's parameters never change.
        own = self._settings.model_dump(mode="json", by_alias=True, exclude=WITHOUT_EFFECT)
        tags = {
            "git_commit": self._workspace.git_commit(),
            "dagster_run": self._dagster_run,
            "world_size": str(self._settings.ranks),
        }
        run, known = mlflow_runs.begin(
            client, self._workspace, mlflow_runs.flat({"training": own}), tags
        )
        mlflow_runs.abandon(client, self._workspace, self._before, run)
        return run, known

    def _failed(self, text: str) -> None:
        if not self._warned:
            self._warn(f"no curve in MLflow: {mlflow_runs.without_password(text)}")
        self._warned = True


def _final(history: History) -> dict[str, float]:
    return {
        "best_epoch": history.best_epoch,
        "best_validation_loss": history.best_validation_loss,
        "training_seconds": history.seconds,
        "peak_memory_bytes": history.peak_memory,
    }
