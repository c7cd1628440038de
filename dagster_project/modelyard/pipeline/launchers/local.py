"""Distributed training as a Dagster resource: torchrun on this machine, through Pipes."""

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import dagster as dg

from modelyard.documents import Signature, UserError
from modelyard.pipeline.config.settings import TrainingSettings
from modelyard.pipeline.launchers.preparation import check, clear, describe, fill
from modelyard.pipeline.training.outcome import failure, traceback_of, was_stopped
from modelyard.pipeline.training.torchrun import GRACE, begin
from modelyard.pipeline.training.workdir import (
    LOG,
    REPORTS,
    WEIGHTS,
    History,
    Unfinished,
    read_history,
)

RANKS_A_CORE = 4
"""at most: more of them only wait for one another, and take memory"""
OWN_STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
"""Ranks that were started again would find their predecessors' addresses in torchrun's store,
and wait for them: pytorch/pytorch#135712. Can go when torch has a store for each round."""


def _echo(line: str) -> None:
    print(f"  {line}", end="", flush=True)


def _nothing() -> None: ...


class TorchLauncher(dg.ConfigurableResource):
    """Runs a training module under torchrun, one process a rank.

    Rank 0 alone opens Dagster Pipes; its lines go to the terminal as they come. All that
    the ranks write to stderr goes to `log.txt` of the work folder. A rank that dies (killed,
    out of memory) is started again with the others, from their last checkpoint; so is a
    training that was stopped, when it is asked for again.
    """

    threads: int = 0
    """of each rank; 0: OMP_NUM_THREADS, or the machine's cores shared out among the ranks"""

    def run(
        self,
        context: dg.AssetExecutionContext,
        module: str,
        folder: Path,
        settings: TrainingSettings,
        signature: Signature,
        train: Path,
        validation: Path,
    ) -> History:
        """Train and return how it went; the weights lie in `folder`.

        The folder is made anew unless it holds the same training, stopped before its end.

        Raises:
            UserError: the settings do not fit the data or the machine, and nothing was
                started; or a rank failed for good. It names the rank and the exception; all
                ranks are stopped and no weights are left, but the last checkpoint is.
            Unfinished: torchrun was told to stop, or killed.
        """
        check_machine(settings)
        check(settings, train, validation)
        job = describe(module, settings, signature, train, validation)
        clear(folder, job)
        with dg.open_pipes_session(
            context=context,
            context_injector=dg.PipesEnvContextInjector(),
            message_reader=dg.PipesFileMessageReader(str(folder / REPORTS), cleanup_file=False),
        ) as session:
            variables = dict(session.get_bootstrap_env_vars())
            code = self.torchrun(
                module, folder, settings, variables,
                meanwhile=lambda: fill(folder, job, train, validation),
            )  # fmt: skip
        if code:
            (folder / WEIGHTS).unlink(missing_ok=True)
            context.log.error(traceback_of(folder))
            kind = Unfinished if was_stopped(folder, code) else UserError
            raise kind(failure(folder, code))
        return read_history(folder)

    def torchrun(
        self,
        module: str,
        folder: Path,
        settings: TrainingSettings,
        environment: dict[str, str],
        heard: Callable[[str], None] = _echo,
        meanwhile: Callable[[], None] = _nothing,
    ) -> int:
        """Start the ranks in a folder; `heard` gets each line that they print.

        They begin when `meanwhile` has prepared the folder. An exception of it, or of `heard`,
        Ctrl-C too, ends the ranks, which write a checkpoint; so does the end of this process.

        Returns:
            torchrun's exit code; `failure` says what went wrong.
        """
        ranks, given = settings.ranks, int(os.environ.get("OMP_NUM_THREADS", "0"))
        threads = self.threads or given or max(1, len(os.sched_getaffinity(0)) // ranks)
        command = [
            sys.executable, "-m", "modelyard.pipeline.training.torchrun",
            # What --standalone does, but without asking for the name of this machine.
            "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0",
            "--local-addr", "127.0.0.1",
            "--nproc-per-node", str(ranks), "--log-dir", str(folder / "errors"),
            "--max-restarts", str(settings.restarts), "--shutdown-timeout", str(GRACE),
            module, str(folder),
        ]  # fmt: skip
        with (folder / LOG).open("w") as log:
            fcntl.flock(log, fcntl.LOCK_EX)  # torchrun's and the ranks' too, until all have ended
            process = subprocess.Popen(
                command,
                env={**os.environ, **OWN_STORE, "OMP_NUM_THREADS": str(threads), **environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # so that Ctrl-C is ours to pass on, to all ranks
            )
            try:
                assert process.stdin and process.stdout
                meanwhile()
                begin(process.stdin)
                for line in process.stdout:
                    heard(line)
                return process.wait()
            finally:
                _stop(process)


def check_machine(settings: TrainingSettings) -> None:
    """Refuse what can't work on this machine before any process is started.

    Raises:
        UserError: too few cores or GPUs for the ranks.
    """
    cores = len(os.sched_getaffinity(0))
    if settings.ranks > RANKS_A_CORE * cores:
        raise UserError(
            f"config.yaml: training.ranks: {settings.ranks} is more than {RANKS_A_CORE} for each "
            f"of this machine's {cores} cores; choose {cores}, or {RANKS_A_CORE * cores} at most"
        )
    if settings.device == "cuda":
        import torch

        if torch.cuda.device_count() < settings.ranks:
            raise UserError(
                f"config.yaml: training.device: cuda needs a GPU for each of {settings.ranks} "
                f"ranks; this machine has {torch.cuda.device_count()}"
            )


def _stop(process: subprocess.Popen[str]) -> None:
    """End what is left of the group, torchrun first: it takes its ranks along."""
    try:
        if process.poll() is None:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=GRACE + 10)
    finally:  # of a second Ctrl-C, too
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
