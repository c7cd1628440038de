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
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from modelyard.documents import Signature, UserError
from modelyard.pipeline.assets import done, table
from modelyard.pipeline.rewrite import changed
from modelyard.pipeline.search import SearchSettings
from modelyard.pipeline.settings import Settings, TrainingSettings
from modelyard.pipeline.study import SPEC, VALUES, Spec, counted, open_study
from modelyard.pipeline.workspace import Workspace, replaced

if TYPE_CHECKING:
    from optuna import Study

ASSET = "best_configuration"
GROUP = "search"
"""of the asset; `make train` leaves it out"""
BEST = "best.json"
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
        UserError: config.yaml has no `tune:`, or trainings failed by themselves.
    """
    if given.tune is None:
        raise UserError(
            "config.yaml has no block tune: say what to search, for example\n"
            "tune:\n  space:\n    learning_rate: {from: 0.0003, to: 0.03, log: true}"
        )
    folder = workspace.state / "tune"
    spec = describe(workspace, given.training, given.tune, module, signature, how)
    study = open_study(spec)
    current = given.tune.current(given.training)
    if current is not None:
        study.enqueue_trial(current, skip_if_exists=True)
    before = counted(study, "COMPLETE", "PRUNED")
    if before:
        print(f"  going on with {before} of {spec.trials} trials done", flush=True)
    own = folder / spec.name
    own.mkdir(parents=True, exist_ok=True)
    with replaced(own / SPEC) as new:
        new.write_text(spec.model_dump_json(by_alias=True))
    _run_workers(own, min(how.workers, max(0, spec.trials - before)))
    return _report(folder, study)


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


def _run_workers(folder: Path, workers: int) -> None:
    """Raises UserError with what a worker said before it failed."""
    command = [sys.executable, "-m", "modelyard.pipeline.study", str(folder)]
    running = [
        subprocess.Popen(
            [*command, str(number)], stderr=subprocess.PIPE, text=True,
            start_new_session=True,  # so that Ctrl-C is ours to pass on, once
        )
        for number in range(1, workers + 1)
    ]  # fmt: skip
    try:
        said = [worker.communicate()[1] for worker in running]
    finally:
        for worker in running:
            if worker.poll() is None:
                worker.send_signal(signal.SIGINT)
        for worker in running:
            worker.wait()
    for worker, text in zip(running, said, strict=True):
        if worker.returncode:
            (folder / "error.txt").write_text(text)
            last = text.strip().rpartition("\n")[2].removeprefix("error: ")
            raise UserError(f"tune: {last or 'a worker was killed'}; see {folder / 'error.txt'}")


def _report(folder: Path, study: "Study") -> dg.MaterializeResult:
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
    draw(study, folder)
    pruned = counted(study, "PRUNED")
    text = (
        f"validation loss {best.value:.4f} in trial {best.number} of {len(complete)} whole "
        f"and {pruned} stopped ones; pictures in {folder}"
    )
    return done(
        ASSET, text, validation_loss=best.value, study=study.study_name,
        values=dg.MetadataValue.json(found["values"]), trials=table(_trials(study)),
    )  # fmt: skip


def _trials(study: "Study") -> Any:
    import polars as pl

    rows = [
        {
            "trial": trial.number,
            "state": trial.state.name.lower(),
            "validation_loss": trial.value,
            "epochs": len(trial.intermediate_values),
            "values": json.dumps(trial.user_attrs.get(VALUES, {})),
        }
        for trial in study.get_trials(deepcopy=False)
    ]
    return pl.DataFrame(rows, infer_schema_length=None)


def draw(study: "Study", folder: Path) -> None:
    """history.png, epochs.png, slices.png and, from ten whole trials on, importances.png."""
    import warnings

    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from optuna.exceptions import ExperimentalWarning
    from optuna.visualization import matplotlib as plots

    wanted = {
        "history": plots.plot_optimization_history,
        "epochs": plots.plot_intermediate_values,
        "slices": plots.plot_slice,
    }
    if counted(study, "COMPLETE") >= 10:
        wanted["importances"] = plots.plot_param_importances
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        for name, plot in wanted.items():
            plot(study)
            figure = plt.gcf()
            figure.set_size_inches(10, 5)
            for axes in figure.axes:
                if axes.get_ylabel() in ("Objective Value", "Intermediate Value"):
                    axes.set_ylabel("validation loss")
                if (legend := axes.get_legend()) and name != "history":
                    legend.remove()  # a line for each trial
            with replaced(folder / f"{name}.png") as new:
                figure.savefig(new, format="png", dpi=120, bbox_inches="tight")
            plt.close("all")


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
