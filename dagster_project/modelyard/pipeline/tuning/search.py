"""Searches the training settings of `tune:` in config.yaml: a study, and workers that run it."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelyard.documents import Signature, UserError
from modelyard.documents.files import replaced
from modelyard.pipeline.config.search_space import SearchSettings
from modelyard.pipeline.config.settings import Settings, TrainingSettings
from modelyard.pipeline.storage.workspace import Workspace
from modelyard.pipeline.tuning.plots import draw
from modelyard.pipeline.tuning.study import (
    SPEC,
    VALUES,
    Failure,
    Spec,
    answering,
    counted,
    failure_file,
    open_study,
)

if TYPE_CHECKING:
    import polars as pl
    from optuna import Study
    from optuna.trial import FrozenTrial

BEST = "best.json"
POLL = 0.5
"""seconds between two looks at the study"""
STORAGE = "OPTUNA_STORAGE"
"""environment variable: the URL of a database that several machines share"""


@dataclass(frozen=True)
class Found:
    """What a study has come to."""

    study: str
    trial: int
    """the best one"""
    validation_loss: float
    values: dict[str, Any]
    """the searched settings of the best trial"""
    current_loss: float | None
    """with config.yaml as it is; None where no whole trial had these settings"""
    complete: int
    pruned: int
    trials: "pl.DataFrame"
    """columns trial, state, validation_loss, epochs and values (JSON)"""
    folder: Path
    """of the pictures"""


def _nothing(trial: int, loss: float) -> None: ...


def find(
    workspace: Workspace,
    given: Settings[Any],
    module: str,
    signature: Signature,
    trials: int = 0,
    workers: int = 1,
    observe: Callable[[int, float], None] = _nothing,
) -> Found:
    """train and validation set → the training settings with the lowest validation loss.

    Args:
        trials: of the whole study; 0: as many as config.yaml says.
        observe: called with number and validation loss of each whole trial as it ends.

    Raises:
        UserError: config.yaml has no `tune:`, trainings failed by themselves, or the database did.
    """
    if given.tune is None:
        raise UserError(
            "config.yaml has no block tune: say what to search, for example\n"
            "tune:\n  space:\n    learning_rate: {from: 0.0003, to: 0.03, log: true}"
        )
    folder = workspace.state / "tune"
    spec = describe(workspace, given.training, given.tune, module, signature, trials, workers)
    study, now = open_study(spec), given.training.model_dump(mode="json")
    current = given.tune.current(given.training)
    own = folder / spec.name
    own.mkdir(parents=True, exist_ok=True)
    with replaced(own / SPEC) as new:
        new.write_text(spec.model_dump_json(by_alias=True))
    with answering(spec):
        if current is not None:
            study.enqueue_trial(current, skip_if_exists=True)
        before = counted(study, "COMPLETE", "PRUNED")
        if before:
            print(f"  going on with {before} of {spec.trials} trials done", flush=True)
        _run_workers(spec, study, own, min(workers, max(0, spec.trials - before)), observe)
        return _found(folder, study, {name: now[name] for name in given.tune.space})


def describe(
    workspace: Workspace,
    training: TrainingSettings,
    tune: SearchSettings,
    module: str,
    signature: Signature,
    trials: int = 0,
    workers: int = 1,
) -> Spec:
    """A study is named by all that makes its losses comparable: data, code, settings, space."""
    from modelyard.pipeline.launchers.preparation import fingerprint

    kind = type(training)
    train, validation = workspace.dataset("train"), workspace.dataset("validation")
    for path in (train, validation):
        if not path.exists():
            raise UserError(f"{path} is not there yet: run `make train` or `make tune`")
    searched = {name: parameter.candidates()[0] for name, parameter in tune.space.items()}
    fixed = kind.model_validate({**training.model_dump(), **searched})
    space = json.dumps({n: p.model_dump(mode="json") for n, p in tune.space.items()})
    text = fingerprint(module, fixed, signature, train, validation) + space
    cores = len(os.sched_getaffinity(0))
    return Spec(
        name=f"{workspace.project()['name']}-{hashlib.sha256(text.encode()).hexdigest()[:12]}",
        storage=os.environ.get(STORAGE) or f"sqlite:///{workspace.state / 'tune.db'}",
        search=tune, trials=trials or tune.trials, module=module,
        settings=f"{kind.__module__}:{kind.__qualname__}",
        training=training.model_dump(mode="json"), signature=signature,
        train=train, validation=validation,
        threads=max(1, cores // (training.ranks * workers)),
    )  # fmt: skip


def _run_workers(
    spec: Spec,
    study: "Study",
    folder: Path,
    workers: int,
    observe: Callable[[int, float], None],
) -> None:
    """Raises UserError with why a worker failed."""
    command = [sys.executable, "-m", "modelyard.pipeline.tuning.worker", str(folder)]
    progress = StudyProgress(spec.trials, study, observe)
    errors = [folder / f"worker-{number}.txt" for number in range(1, workers + 1)]
    for number in range(1, workers + 1):
        failure_file(folder, number).unlink(missing_ok=True)
    running = []
    try:
        for number, path in enumerate(errors, start=1):
            with path.open("w") as file:
                running.append(
                    subprocess.Popen(
                        [*command, str(number)], stderr=file,
                        start_new_session=True,  # so that Ctrl-C is ours to pass on, once
                    )
                )  # fmt: skip
        while any(worker.poll() is None for worker in running):
            time.sleep(POLL)
            progress.look()
    finally:
        for worker in running:
            if worker.poll() is None:
                worker.send_signal(signal.SIGINT)
        for worker in running:
            worker.wait()
    for number, (worker, path) in enumerate(zip(running, errors, strict=True), start=1):
        if worker.returncode:
            told = failure_file(folder, number)
            why = "a worker was killed"
            if told.exists():
                why = Failure.model_validate_json(told.read_bytes()).message
            raise UserError(f"tune: {why}; see {path}")


class StudyProgress:
    """How far a study is, in the terminal and to whom `observe` tells."""

    def __init__(
        self, trials: int, study: "Study", observe: Callable[[int, float], None] = _nothing
    ) -> None:
        self._trials, self._study, self._observe = trials, study, observe
        self._began, self._seen = time.monotonic(), {trial.number for trial in _ended(study)}
        self._before = len(self._seen)

    def look(self) -> None:
        """Tell of the trials that have ended since the last look."""
        new = [trial for trial in _ended(self._study) if trial.number not in self._seen]
        if not new:
            return
        self._seen.update(trial.number for trial in new)
        for trial in new:
            if trial.value is not None:
                self._observe(trial.number, trial.value)
        wanted, done = self._trials, len(self._seen)
        text = f"{done} of {max(wanted, done)} trials done"
        if counted(self._study, "COMPLETE"):
            best = self._study.best_trial
            text += f", the best {best.value:.4f} in trial {best.number}"
        pace = (time.monotonic() - self._began) / (done - self._before)
        if (left := (wanted - done) * pace) > 0:
            text += f"; {left / 60:.0f} min left" if left > 90 else f"; {left:.0f} s left"
        print(f"  {text}", flush=True)


def _ended(study: "Study") -> "list[FrozenTrial]":
    """The trials that count: whole ones, and those that were stopped as worse than others."""
    states = ("COMPLETE", "PRUNED")
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.name in states]


def _found(folder: Path, study: "Study", current: dict[str, Any]) -> Found:
    from optuna.trial import TrialState

    complete = study.get_trials(states=(TrialState.COMPLETE,))
    if not complete:
        raise UserError("tune: no trial has come to its end; raise trials or startup_trials")
    best = study.best_trial
    assert best.value is not None
    name, values = study.study_name, best.user_attrs[VALUES]
    kept = {"study": name, "trial": best.number, "validation_loss": best.value, "values": values}
    with replaced(folder / BEST) as new:
        new.write_text(json.dumps(kept, indent=1) + "\n")
    draw(study, folder, current)
    return Found(
        study=name,
        trial=best.number,
        validation_loss=best.value,
        values=values,
        current_loss=next((t.value for t in complete if t.user_attrs[VALUES] == current), None),
        complete=len(complete),
        pruned=counted(study, "PRUNED"),
        trials=_trials(study),
        folder=folder,
    )


def _trials(study: "Study") -> "pl.DataFrame":
    import polars as pl

    rows = [
        {
            "trial": trial.number,
            "state": _state(trial),
            "validation_loss": trial.value,
            "epochs": len(trial.intermediate_values),
            "values": json.dumps(trial.user_attrs.get(VALUES, {})),
        }
        for trial in study.get_trials(deepcopy=False)
    ]
    return pl.DataFrame(rows, infer_schema_length=None)


def _state(trial: "FrozenTrial") -> str:
    if trial.state.name == "FAIL":
        return "failed" if "error" in trial.user_attrs else "interrupted"
    return {"COMPLETE": "whole", "PRUNED": "stopped"}.get(trial.state.name, "running")
