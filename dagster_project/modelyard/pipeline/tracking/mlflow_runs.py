"""MLflow, embedded (SQLite) unless MLFLOW_TRACKING_URI names a server; a training is one run.

`tracking.json` in the training's work folder names its run: it lives as long as the training
may go on, and the package that is made of its weights joins the same run.
"""

import fcntl
import json
import logging
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from modelyard.documents import UserError
from modelyard.documents.files import replaced
from modelyard.pipeline.storage.workspace import Workspace
from modelyard.pipeline.training.workdir import Epoch

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

SWITCH = "MODELYARD_TRACKING"
"""environment variable: `off` where MLflow is to know nothing of a training"""
RUN = "tracking.json"
PACKAGE = "package"
"""tag: the id of the package that a run holds"""
MOST = 100
"""parameters or tags that a server takes at once; of metrics ten times as many"""


def uri(workspace: Workspace) -> str:
    workspace.state.mkdir(exist_ok=True)
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{workspace.state / 'mlflow.db'}"


@contextmanager
def connected(workspace: Workspace) -> "Iterator[MlflowClient]":
    """Raises UserError for whatever MLflow, its server or the disk refuses within the block."""
    # Without a server nothing answers: say so in seconds, not in minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    place = uri(workspace)
    try:
        if "MLFLOW_TRACKING_URI" not in os.environ:
            _make_database(workspace)
        yield MlflowClient(tracking_uri=place, registry_uri=place)
    except (MlflowException, OSError) as error:
        # Of a file, an OSError has a number; those of a connection without an answer have none.
        away = isinstance(error, MlflowException | ConnectionError | TimeoutError)
        if not away and error.errno is not None:
            raise UserError(
                f"a model package cannot be kept: {error}; mend that (is the disk full?), "
                "then run this again"
            ) from error
        said = without_password(f"{place}: {str(error).strip().splitlines()[0]}")
        raise UserError(
            f"model registry {said}; "
            "look at MLFLOW_TRACKING_URI, or unset it for the registry in .modelyard"
        ) from error


def without_password(text: str) -> str:
    """`text` without the users and passwords of the URLs in it."""
    return re.sub(r"(?<=://)[^\s/]*@", "", text)


def _make_database(workspace: Workspace) -> None:
    """Its tables take seconds; a process that ends meanwhile must not leave half of them."""
    path = workspace.state / "mlflow.db"
    if path.exists():
        return
    from mlflow import MlflowClient

    path.parent.mkdir(parents=True, exist_ok=True)
    with (path.parent / ".mlflow.lock").open("w") as lock:
        # Live curves have a thread of their own: one that is used must not be replaced.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return
        with replaced(path) as new:
            MlflowClient(f"sqlite:///{new}").search_experiments(max_results=1)


def experiment(client: "MlflowClient", workspace: Workspace, name: str) -> str:
    """The id of a project's experiment, made where there is none."""
    if found := client.get_experiment_by_name(name):
        return found.experiment_id
    local = None if "MLFLOW_TRACKING_URI" in os.environ else workspace.state / "mlartifacts"
    return client.create_experiment(
        name,
        artifact_location=local.as_uri() if local else None,
        tags={"mlflow.experimentKind": "custom_model_development"},  # else the UI shows chats
    )


def begin(
    client: "MlflowClient",
    workspace: Workspace,
    parameters: dict[str, str],
    tags: dict[str, str],
) -> tuple[str, set[int]]:
    """The run of the training in the work folder: a new one, or the one that it goes on in.

    Returns:
        the run's id, and the epochs that it holds already.
    """
    if run := recorded(client, workspace):
        own = run.info.run_id
        client.update_run(own, status="RUNNING")
    else:
        name = tags["git_commit"][:7]
        place = experiment(client, workspace, workspace.project()["name"])
        own = client.create_run(place, run_name=name).info.run_id
        # At once: a server that fails now gets the rest into the same run.
        with replaced(workspace.training / RUN) as new:
            new.write_text(json.dumps({"uri": uri(workspace), "run": own}) + "\n")
    log(client, own, parameters=parameters, tags=tags)
    return own, {metric.step for metric in client.get_metric_history(own, "validation_loss")}


def read(workspace: Workspace) -> dict[str, str]:
    """Where the run of the training in the work folder is: uri and run; {} where nobody said."""
    path = workspace.training / RUN
    return json.loads(path.read_text()) if path.exists() else {}


def abandon(client: "MlflowClient", workspace: Workspace, before: dict[str, str], run: str) -> None:
    """End the run of a training that was killed and, by now, gave its folder to another one."""
    if before.get("uri") != uri(workspace) or before["run"] == run:
        return
    if client.get_run(before["run"]).info.status == "RUNNING":
        client.set_terminated(before["run"], "KILLED")


def recorded(client: "MlflowClient", workspace: Workspace) -> "Run | None":
    """The run of the training in the work folder; None where the server knows of none."""
    from mlflow.exceptions import MlflowException

    known = read(workspace)
    if known.get("uri") != uri(workspace):
        return None
    try:
        found = client.get_run(known["run"])
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return found if found.info.lifecycle_stage == "active" else None


def log_epochs(client: "MlflowClient", run: str, epochs: Sequence[Epoch]) -> None:
    """Each epoch's figures, at the time when it ended; the step is the epoch."""
    from mlflow.entities import Metric

    metrics = [
        Metric(name, value, int(epoch.ended * 1000), epoch.epoch)
        for epoch in epochs
        for name, value in epoch.figures().items()
    ]
    for start in range(0, len(metrics), 10 * MOST):
        client.log_batch(run, metrics=metrics[start : start + 10 * MOST])


def log(
    client: "MlflowClient",
    run: str,
    metrics: dict[str, float] | None = None,
    parameters: dict[str, str] | None = None,
    tags: dict[str, str] | None = None,
) -> None:
    from mlflow.entities import Metric, Param, RunTag

    given = [Param(*each) for each in (parameters or {}).items()]
    marks = [RunTag(*each) for each in (tags or {}).items()]
    now = int(time.time() * 1000)
    values = [Metric(name, value, now, 0) for name, value in (metrics or {}).items()]
    for start in range(0, max(len(given), len(marks), len(values), 1), MOST):
        part = slice(start, start + MOST)
        client.log_batch(run, metrics=values[part], params=given[part], tags=marks[part])


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as parameters: `training.epochs` → `20`."""
    found: dict[str, str] = {}
    for name, value in values.items():
        nested = isinstance(value, dict)
        found |= flat(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": str(value)}
    return found
