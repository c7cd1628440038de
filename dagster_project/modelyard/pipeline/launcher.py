"""Distributed training as a Dagster resource: torchrun on this machine, through Pipes."""

import fcntl
import hashlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import dagster as dg
import polars as pl

from modelyard.documents import Signature, UserError
from modelyard.pipeline.arrays import write_arrays
from modelyard.pipeline.frames import HASH
from modelyard.pipeline.job import (
    JOB,
    LOG,
    MISTAKE,
    REPORTS,
    WEIGHTS,
    History,
    Job,
    Mistake,
    Unfinished,
    read_history,
    unfinished,
)
from modelyard.pipeline.settings import TrainingSettings
from modelyard.pipeline.workspace import replaced

LOGGED = 60
"""lines of the log in Dagster, where a rank left no traceback of its own"""
LAST = 15
"""lines of the log in the message when the ranks never started"""
RANKS_A_CORE = 4
"""at most: more of them only wait for one another, and take memory"""
GRACE = 60
"""seconds that the ranks have for a checkpoint when they are told to stop"""
OWN_STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
"""Ranks that were started again would find their predecessors' addresses in torchrun's store,
and wait for them: pytorch/pytorch#135712. Can go when torch has a store for each round."""
WITHOUT_EFFECT = {"ranks", "device", "checkpoint_seconds", "restarts"}
"""settings that a training may go on with other values of"""


def _echo(line: str) -> None:
    print(f"  {line}", end="", flush=True)


def _nothing() -> None: ...


def begin(stdin: IO[str]) -> None:
    """The word that `modelyard.pipeline.torchrun` waits for."""
    with suppress(BrokenPipeError):  # it has failed already, and its log says why
        stdin.write("\n")
        stdin.flush()


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
            kind = Unfinished if _stopped_by(folder, code) else UserError
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
            sys.executable, "-m", "modelyard.pipeline.torchrun",
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


def check(settings: TrainingSettings, train: Path, validation: Path) -> None:
    """Refuse data that can't be shared out.

    Raises:
        UserError: too few rows for the ranks.
    """
    for name, path, least in (
        ("training", train, settings.ranks * settings.accumulate),
        ("validation", validation, settings.ranks),
    ):
        rows = pl.scan_parquet(path).select(pl.len()).collect().item()
        if rows < least:
            raise UserError(
                f"config.yaml: training: {rows} {name} rows for {settings.ranks} ranks "
                f"(accumulate {settings.accumulate}); choose fewer ranks or more months"
            )


def prepare(
    module: str,
    folder: Path,
    settings: TrainingSettings,
    signature: Signature,
    train: Path,
    validation: Path,
) -> None:
    """Write what the ranks read, unless a training that goes on has it already."""
    job = describe(module, settings, signature, train, validation)
    clear(folder, job)
    fill(folder, job, train, validation)


def describe(
    module: str, settings: TrainingSettings, signature: Signature, train: Path, validation: Path
) -> Job:
    return Job(
        settings=settings.model_dump(mode="json"),
        signature=signature,
        fingerprint=fingerprint(module, settings, signature, train, validation),
    )


def clear(folder: Path, job: Job) -> None:
    """Make a work folder without what another training, or a failure, has left there.

    Raises:
        UserError: ranks of another run write there, and do not end.
    """
    _wait_for_others(folder / LOG)
    if not _goes_on(folder, job.fingerprint):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    for left in (MISTAKE, LOG):
        (folder / left).unlink(missing_ok=True)
    shutil.rmtree(folder / "errors", ignore_errors=True)


def _wait_for_others(log: Path) -> None:
    """For the ranks of a run that was killed, whose last checkpoint is still being written."""
    until, told = time.monotonic() + GRACE + 10, False
    while log.exists():
        with log.open() as file, suppress(BlockingIOError):
            return fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if time.monotonic() > until:
            raise UserError(
                f"another run trains in {log.parent}; wait for its end, or end its processes "
                f"(fuser {log} lists them)"
            )
        if not told:
            _echo("waiting for the ranks of a run that was killed\n")
        told = True
        time.sleep(0.1)


def fill(folder: Path, job: Job, train: Path, validation: Path) -> None:
    """Write arrays and job into a cleared folder; the job last, which says that all is there."""
    if not (folder / JOB).exists():
        write_arrays(train, job.signature, folder / "train")
        write_arrays(validation, job.signature, folder / "validation")
    with replaced(folder / JOB) as new:
        new.write_text(job.model_dump_json(indent=1))


def _goes_on(folder: Path, wanted: str) -> bool:
    """Whether the folder holds a checkpoint of this very training, which has not ended."""
    return (
        unfinished(folder) and json.loads((folder / JOB).read_text()).get("fingerprint") == wanted
    )


def fingerprint(
    module: str, settings: TrainingSettings, signature: Signature, train: Path, validation: Path
) -> str:
    """SHA-256 of code, data and settings: what a checkpoint may be read by again."""
    digest = hashlib.sha256()
    parts: list[Any] = [
        module,
        version("torch"),
        settings.model_dump_json(exclude=WITHOUT_EFFECT),
        signature.model_dump_json(),
        *(_content(path) for path in (train, validation)),
    ]
    spec = importlib.util.find_spec(module.partition(".")[0])
    for place in (spec.submodule_search_locations or []) if spec else []:
        parts += [path.read_text() for path in sorted(Path(place).rglob("*.py"))]
    for part in parts:
        digest.update(f"{len(part)}:{part}".encode())
    return digest.hexdigest()


def _content(dataset: Path) -> str:
    known = pl.read_parquet_metadata(dataset).get(HASH)
    return known or hashlib.sha256(dataset.read_bytes()).hexdigest()


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


def failure(folder: Path, code: int = 1) -> str:
    """One message about the first rank that failed, by what the ranks and torchrun left.

    Args:
        code: torchrun's exit code.
    """
    path = folder / LOG
    log, end = path.read_text(), f"its traceback is in {path}"
    if (folder / MISTAKE).exists():
        mistake = Mistake.model_validate_json((folder / MISTAKE).read_bytes())
        return f"training: {mistake}; {end}"
    if name := _stopped_by(folder, code):
        return f"training: stopped by {name}; run it again to go on from its last checkpoint"
    _, _, cause = log.rpartition("Root Cause (first observed failure):")
    rank, exited = (re.search(rf"{name}\s*:\s*(-?\d+)", cause) for name in ("rank", "exitcode"))
    if not (cause and rank and exited):
        tail = "\n".join(f"  {line}" for line in log.splitlines()[-LAST:])
        return f"training: torchrun failed before its ranks ran; {path} ends with\n{tail}"
    return f"training: rank {rank[1]} {_what(cause, int(exited[1]))}; {end}"


def _stopped_by(folder: Path, code: int) -> str:
    """The signal that ended torchrun; empty where a rank's failure did."""
    if (folder / MISTAKE).exists():
        return ""
    told = re.search(r"SignalException: .* got signal: (\d+)", (folder / LOG).read_text())
    return signal.Signals(int(told[1]) if told else -code).name if told or code < 0 else ""


def traceback_of(folder: Path) -> str:
    """Of the mistake that a rank made; the end of the log where there was none."""
    if (folder / MISTAKE).exists():
        mistake = Mistake.model_validate_json((folder / MISTAKE).read_bytes())
        return f"rank {mistake.rank}:\n{mistake.traceback}"
    return "\n".join((folder / LOG).read_text().splitlines()[-LOGGED:])


def _what(cause: str, code: int) -> str:
    file = re.search(r"error_file\s*:\s*(\S+)", cause)
    if file and Path(file[1]).exists():
        message = json.loads(Path(file[1]).read_text())["message"]
        text = message if isinstance(message, str) else message["message"]
        return f"failed with {text.strip().splitlines()[0]}"
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"exited with {code}"
