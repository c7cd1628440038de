"""An Optuna study of trainings: trials under torchrun, in any number of processes.

The study lies in a database, so that workers share it and it goes on after a stop.
"""

import importlib
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from modelyard.documents import Signature, UserError
from modelyard.pipeline.config.search_space import SearchSettings
from modelyard.pipeline.config.settings import TrainingSettings

if TYPE_CHECKING:
    from optuna import Study

SPEC = "study.json"
VALUES = "values"
"""of a trial's attributes: the settings as the training had them"""
BEAT = 20
"""seconds between two signs of life of a trial; after four without one it's taken up again"""


class Spec(BaseModel):
    """What a worker needs to know."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    storage: str
    """URL of a database"""
    search: SearchSettings
    trials: int
    module: str
    """the training module"""
    settings: str
    """module:class of `training:`"""
    training: dict[str, Any]
    """its values, of which a trial changes some"""
    signature: Signature
    train: Path
    validation: Path
    threads: int
    """of each rank"""

    def base(self) -> TrainingSettings:
        module, _, name = self.settings.partition(":")
        return getattr(importlib.import_module(module), name).model_validate(self.training)


class Failure(BaseModel):
    """Why a worker ended before the study did: `worker-N.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["mistake", "exception"]
    """what the user can mend, or whatever else was raised"""
    message: str
    """in one line"""


def failure_file(folder: Path, worker: int) -> Path:
    return folder / f"worker-{worker}.json"


def shown(values: dict[str, Any]) -> str:
    """Settings in a line."""
    return ", ".join(f"{name} {json.dumps(value)}" for name, value in values.items())


def open_study(spec: Spec, worker: int = 0) -> "Study":
    """The study, made where there is none.

    Raises:
        UserError: its database does not answer.
    """
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Of signs of life: the version of Optuna is pinned, so nothing changes under us.
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    wait = {"connect_args": {"timeout": 60}} if spec.storage.startswith("sqlite") else {}
    again = optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=3)
    try:
        storage = optuna.storages.RDBStorage(
            spec.storage, engine_kwargs=wait, heartbeat_interval=BEAT, grace_period=4 * BEAT,
            heartbeat_stale_trial_callback=again,
        )  # fmt: skip
        sampler = optuna.samplers.TPESampler(
            seed=spec.base().seed * 1000 + worker, constant_liar=True
        )
        return optuna.create_study(
            storage=storage, study_name=spec.name, load_if_exists=True,
            sampler=sampler, pruner=_pruner(spec.search),
        )  # fmt: skip
    except (SQLAlchemyError, ImportError, ValueError) as error:
        raise _no_database(spec, error) from None


def _no_database(spec: Spec, error: BaseException) -> UserError:
    said = str(error).strip().splitlines()[0]
    place = spec.storage.rpartition("@")[2]  # without a password
    return UserError(f"the study's database {place}: {said}")


@contextmanager
def answering(spec: Spec) -> Iterator[None]:
    """Raises UserError where the study's database fails within the block."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        raise _no_database(spec, error.__cause__ or error) from error


def _pruner(search: SearchSettings) -> Any:
    from optuna import pruners

    if search.prune == "median":
        return pruners.MedianPruner(n_startup_trials=search.startup_trials)
    return pruners.HyperbandPruner() if search.prune == "hyperband" else pruners.NopPruner()


def counted(study: "Study", *states: str) -> int:
    return sum(trial.state.name in states for trial in study.get_trials(deepcopy=False))
