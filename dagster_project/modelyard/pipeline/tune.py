"""Searches the training settings of `tune:` in config.yaml: what `make tune` calls.

    python -m modelyard.pipeline.tune [--trials N] [--workers N] [--apply]

The data first, as `make train` does, then an Optuna study with as many trials as are still
missing. It ends with the change to config.yaml, which `--apply` writes. Ctrl-C stops it; the
same command goes on.
"""

import argparse
import difflib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from modelyard.documents import Signature, UserError
from modelyard.pipeline.assets import done, table
from modelyard.pipeline.rewrite import changed
from modelyard.pipeline.search import SearchSettings
from modelyard.pipeline.settings import Settings, TrainingSettings
from modelyard.pipeline.study import SPEC, VALUES, Spec, answering, counted, open_study
from modelyard.pipeline.study_pictures import draw
from modelyard.pipeline.workspace import Workspace, replaced

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

ASSET = "best_configuration"
GROUP = "search"
"""of the asset; `make train` leaves it out"""
BEST = "best.json"
POLL = 0.5
"""seconds between two looks at the study"""
STORAGE = "OPTUNA_STORAGE"
"""environment variable: the URL of a database that several machines share"""


class Search(dg.Config):
    """How the asset is run."""

    trials: int = 0
    """0: as many as config.yaml says"""
    workers: int = 1


def search(
    workspace: Workspace,
    given: Settings[Any],
    module: str,
    signature: Signature,
    how: Search,
) -> dg.MaterializeResult:
    """train and validation set → the training settings with the lowest validation loss.

    Raises:
        UserError: config.yaml has no `tune:`, trainings failed by themselves, or the database did.
    """
    if given.tune is None:
        raise UserError(
            "config.yaml has no block tune: say what to search, for example\n"
            "tune:\n  space:\n    learning_rate: {from: 0.0003, to: 0.03, log: true}"
        )
    folder = workspace.state / "tune"
    spec = describe(workspace, given.training, given.tune, module, signature, how)
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
        _run_workers(spec, study, own, min(how.workers, max(0, spec.trials - before)))
        return _report(folder, study, {name: now[name] for name in given.tune.space})


def describe(
    workspace: Workspace,
    training: TrainingSettings,
    tune: SearchSettings,
    module: str,
    signature: Signature,
    how: Search,
) -> Spec:
    """A study is named by all that makes its losses comparable: data, code, settings, space."""
    from modelyard.pipeline.launcher import fingerprint

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
        search=tune, trials=how.trials or tune.trials, module=module,
        settings=f"{kind.__module__}:{kind.__qualname__}",
        training=training.model_dump(mode="json"), signature=signature,
        train=train, validation=validation,
        threads=max(1, cores // (training.ranks * how.workers)),
    )  # fmt: skip


def _run_workers(spec: Spec, study: "Study", folder: Path, workers: int) -> None:
    """Raises UserError with what a worker said before it failed."""
    command = [sys.executable, "-m", "modelyard.pipeline.study", str(folder)]
    progress = Progress(spec.trials, study)
    errors = [folder / f"worker-{number}.txt" for number in range(1, workers + 1)]
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
    for worker, path in zip(running, errors, strict=True):
        if worker.returncode:
            last = path.read_text().strip().rpartition("\n")[2].removeprefix("error: ")
            raise UserError(f"tune: {last or 'a worker was killed'}; see {path}")


class Progress:
    """How far a study is, in the terminal and as observations of the Dagster asset."""

    def __init__(self, trials: int, study: "Study") -> None:
        self._trials, self._study = trials, study
        self._began, self._seen = time.monotonic(), {trial.number for trial in _ended(study)}
        self._before = len(self._seen)
        try:
            self._context = dg.AssetExecutionContext.get()
        except dg.DagsterInvariantViolationError:  # called outside of a run
            self._context = None

    def look(self) -> None:
        """Tell of the trials that have ended since the last look."""
        new = [trial for trial in _ended(self._study) if trial.number not in self._seen]
        if not new:
            return
        self._seen.update(trial.number for trial in new)
        for trial in new:
            if trial.value is not None and self._context:
                figures = {"trial": trial.number, "validation_loss": trial.value}
                self._context.log_event(dg.AssetObservation(ASSET, metadata=figures))
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


def _report(folder: Path, study: "Study", current: dict[str, Any]) -> dg.MaterializeResult:
    from optuna.trial import TrialState

    complete = study.get_trials(states=(TrialState.COMPLETE,))
    if not complete:
        raise UserError("tune: no trial has come to its end; raise trials or startup_trials")
    best = study.best_trial
    found = {
        "study": study.study_name,
        "trial": best.number,
        "validation_loss": best.value,
        "values": best.user_attrs[VALUES],
    }
    with replaced(folder / BEST) as new:
        new.write_text(json.dumps(found, indent=1) + "\n")
    draw(study, folder, current)
    pruned = counted(study, "PRUNED")
    now = next((t.value for t in complete if t.user_attrs[VALUES] == current), None)
    text = (
        f"validation loss {best.value:.4f} in trial {best.number} of {len(complete)} whole "
        f"and {pruned} stopped ones"
        + (f"; {now:.4f} with config.yaml as it is" if now is not None else "")
    )
    return done(
        ASSET, text, validation_loss=best.value, study=study.study_name,
        values=dg.MetadataValue.json(found["values"]), trials=table(_trials(study)),
        pictures=dg.MetadataValue.path(folder),
    )  # fmt: skip


def _trials(study: "Study") -> Any:
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


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m modelyard.pipeline.tune",
        description="Search the training settings of config.yaml: tune:.",
    )
    parser.add_argument("--trials", type=_count, default=0, help="instead of tune.trials")
    parser.add_argument("--workers", type=_count, default=1, help="trials at the same time")
    parser.add_argument("--apply", action="store_true", help="write the best into config.yaml")
    given = parser.parse_args(arguments)
    workspace = Workspace(Path.cwd())
    os.environ.setdefault("DAGSTER_HOME", str(workspace.root / ".dagster"))
    from modelyard.pipeline.materialize import alone, materialize

    how = {"trials": given.trials, "workers": given.workers}
    try:
        with alone(workspace):
            materialize(workspace, f'+key:"{ASSET}"', config={ASSET: how})
            show(workspace, given.apply)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; `make tune` goes on with the study", file=sys.stderr)
        return 130
    return 0


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: give 1 at least")
    return number


def show(workspace: Workspace, apply: bool) -> None:
    """The best configuration as a change to config.yaml; `apply` writes it."""
    path = workspace.root / "config.yaml"
    best = json.loads((workspace.state / "tune" / BEST).read_text())
    before = path.read_text()
    after = changed(before, "training", best["values"])
    if after == before:
        print("config.yaml has the best configuration already")
        return
    lines = difflib.unified_diff(
        before.splitlines(), after.splitlines(), "config.yaml", "config.yaml", n=1, lineterm=""
    )
    print("\n".join(lines))
    if not apply:
        print("config.yaml is as it was; `make tune ARGS=--apply` writes this change")
        return
    with replaced(path) as new:
        new.write_text(after)
        new.chmod(path.stat().st_mode & 0o777)
    print("config.yaml is changed; `make train` trains with it")


if __name__ == "__main__":
    sys.exit(main())
