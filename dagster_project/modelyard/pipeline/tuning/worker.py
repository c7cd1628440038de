"""One worker of a study: trials under torchrun, one after the other.

    python -m modelyard.pipeline.tuning.worker FOLDER N     of the study described there

A trial is a training like any other, by the validation loss alone: workers are given the
training and the validation set, and no way to the test months.
"""

import hashlib
import json
import os
import shutil
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from traceback import format_exception_only
from typing import TYPE_CHECKING

from modelyard.documents import UserError
from modelyard.documents.files import replaced
from modelyard.pipeline.training.workdir import CHECKPOINTS, QUIET, Epoch, Messages
from modelyard.pipeline.tuning.study import (
    SPEC,
    VALUES,
    Failure,
    Spec,
    answering,
    counted,
    failure_file,
    open_study,
    shown,
)

if TYPE_CHECKING:
    from optuna import Study, Trial


class TrialFailed(Exception):
    """Of a training that failed by itself: another configuration may do better."""


def work(folder: Path, worker: int) -> None:
    """Run trials until the study has enough.

    Raises:
        UserError: too many trainings failed by themselves, or the database did.
    """
    spec = Spec.model_validate_json((folder / SPEC).read_bytes())
    study = open_study(spec, worker)
    running: list[Trial] = []

    def objective(trial: "Trial") -> float:
        running[:] = [trial]
        return TrialRun(spec, folder, trial).run()

    try:
        with answering(spec):
            while counted(study, "COMPLETE", "PRUNED", "RUNNING") < spec.trials:
                study.optimize(objective, n_trials=1, catch=(TrialFailed,))
                _stop_if_hopeless(study, spec)
    except KeyboardInterrupt:
        for trial in running:
            _put_back(study, trial)
        raise


def _stop_if_hopeless(study: "Study", spec: Spec) -> None:
    errors = [t.user_attrs["error"] for t in study.get_trials() if "error" in t.user_attrs]
    if len(errors) > max(2, spec.trials // 4):
        raise UserError(f"{len(errors)} trials failed by themselves, the last one: {errors[-1]}")


def _put_back(study: "Study", trial: "Trial") -> None:
    """A trial that was interrupted comes again, and goes on from its checkpoint."""
    from optuna.trial import TrialState

    state = study.trials[trial.number].state
    if state == TrialState.RUNNING:
        study.tell(trial.number, state=TrialState.FAIL)
    if not state.is_finished() or state == TrialState.FAIL:
        study.enqueue_trial(trial.params)


class TrialRun:
    """One trial."""

    def __init__(self, spec: Spec, folder: Path, trial: "Trial") -> None:
        self._spec, self._trial = spec, trial
        base = spec.base()
        values = spec.search.suggest(trial, type(base))
        trial.set_user_attr(VALUES, values)
        self._settings = type(base).model_validate({**base.model_dump(), **values})
        digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
        self._folder = folder / digest
        self._reports = folder / f"{digest}.jsonl"
        self._messages = Messages(self._reports)

    def run(self) -> float:
        """The lowest validation loss of an epoch.

        Raises:
            TrialPruned: it's worse than the others were at that epoch.
            TrialFailed: a rank failed.
        """
        from modelyard.pipeline.launchers.local import TorchLauncher
        from modelyard.pipeline.launchers.preparation import prepare
        from modelyard.pipeline.training.outcome import failure
        from modelyard.pipeline.training.workdir import read_history

        spec, settings = self._spec, self._settings
        prepare(spec.module, self._folder, settings, spec.signature, spec.train, spec.validation)
        self._reports.write_text("")
        launcher = TorchLauncher(threads=spec.threads)
        self._say(f"begins with {shown(self._trial.user_attrs[VALUES])}")
        try:
            code = launcher.torchrun(spec.module, self._folder, settings, self._pipes(), self._hear)
            if code:
                said = failure(self._folder, code)
                self._trial.set_user_attr("error", said)
                self._say(said)
                raise TrialFailed
            history = read_history(self._folder)
        except KeyboardInterrupt:
            raise  # the checkpoint stays
        except TrialFailed:
            self._clear("train", "validation", CHECKPOINTS)  # not the log, which the error names
            raise
        except BaseException:
            self._clear()
            raise
        self._clear()
        best, epochs = history.best_validation_loss, len(history.epochs)
        self._say(f"ends with validation loss {best:.4f} in epoch {history.best_epoch} of {epochs}")
        return best

    def _hear(self, line: str) -> None:
        """Called for each line that the ranks print; epochs come by Dagster Pipes's protocol."""
        from optuna import TrialPruned

        if said := line.strip():
            self._say(said)
        for message in self._messages.new():
            if "epoch" not in message:
                continue
            epoch = Epoch.model_validate(message["epoch"])
            self._trial.report(epoch.validation_loss, epoch.epoch)
            if self._trial.should_prune():
                self._say(f"stopped after epoch {epoch.epoch}: worse than the others were")
                raise TrialPruned

    def _pipes(self) -> dict[str, str]:
        """What makes rank 0 report to a file alone; there is no Dagster run to report to."""
        from dagster_pipes import (
            DAGSTER_PIPES_CONTEXT_ENV_VAR,
            DAGSTER_PIPES_MESSAGES_ENV_VAR,
            PipesContextData,
            encode_param,
        )

        unset = dict.fromkeys(PipesContextData.__annotations__)
        known = {"run_id": self._spec.name, "retry_number": 0, "extras": {}}
        return {
            DAGSTER_PIPES_CONTEXT_ENV_VAR: encode_param({"data": {**unset, **known}}),
            DAGSTER_PIPES_MESSAGES_ENV_VAR: encode_param({"path": str(self._reports)}),
            QUIET: "1",
        }

    def _say(self, text: str) -> None:
        with suppress(OSError):  # nobody listens any more; the trial's checkpoint is to stay
            print(f"  trial {self._trial.number:3d}  {text}", flush=True)

    def _clear(self, *parts: str) -> None:
        """All that the training has written, or these parts of it."""
        for part in parts or ("",):
            shutil.rmtree(self._folder / part, ignore_errors=True)
        self._reports.unlink(missing_ok=True)


def _stop_with(starter: int) -> None:
    """As by Ctrl-C, when the process that started this one is gone, however it ended."""
    while os.getppid() == starter:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGINT)


def main() -> int:
    folder, worker = Path(sys.argv[1]), int(sys.argv[2])
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background process has none
    threading.Thread(target=_stop_with, args=[os.getppid()], daemon=True).start()
    try:
        work(folder, worker)
    except UserError as error:
        _record(folder, worker, Failure(kind="mistake", message=str(error)))
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        (line,) = format_exception_only(error)[-1:]
        _record(folder, worker, Failure(kind="exception", message=line.strip()))
        raise
    return 0


def _record(folder: Path, worker: int, failure: Failure) -> None:
    with suppress(OSError), replaced(failure_file(folder, worker)) as new:
        new.write_text(failure.model_dump_json())


if __name__ == "__main__":
    sys.exit(main())
