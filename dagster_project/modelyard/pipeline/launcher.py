"""Distributed training as a Dagster resource: torchrun on this machine, through Pipes."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import dagster as dg

from modelyard.documents import Signature, UserError
from modelyard.pipeline.arrays import write_arrays
from modelyard.pipeline.job import JOB, LOG, WEIGHTS, History, Job, read_history
from modelyard.pipeline.settings import TrainingSettings

LAST = 15
"""lines of the log in the message when the ranks never started"""


class TorchLauncher(dg.ConfigurableResource):
    """Runs a training module under torchrun, one process a rank, gloo between them.

    Rank 0 alone opens Dagster Pipes; its lines go to the terminal as they come. All that
    the ranks write to stderr goes to `log.txt` of the work folder.
    """

    threads: int = 0
    """of each rank; 0 shares the machine's cores among the ranks"""

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
        """Train and return how it went; the weights lie in `folder`, which is made anew.

        Raises:
            UserError: a rank failed. It names the rank and the exception; all ranks are
                stopped and no weights are left.
        """
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_arrays(train, signature, folder / "train")
        write_arrays(validation, signature, folder / "validation")
        job = Job(settings=settings.model_dump(mode="json"), signature=signature)
        (folder / JOB).write_text(job.model_dump_json(indent=1))
        with dg.open_pipes_session(
            context=context,
            context_injector=dg.PipesEnvContextInjector(),
            message_reader=dg.PipesTempFileMessageReader(),
        ) as session:
            variables = dict(session.get_bootstrap_env_vars())
            code = self._torchrun(module, folder, settings.ranks, variables)
        if code:
            (folder / WEIGHTS).unlink(missing_ok=True)
            raise UserError(failure((folder / LOG).read_text(), folder / LOG))
        return read_history(folder)

    def _torchrun(self, module: str, folder: Path, ranks: int, environment: dict[str, str]) -> int:
        threads = self.threads or max(1, len(os.sched_getaffinity(0)) // ranks)
        command = [
            sys.executable, "-m", "torch.distributed.run",
            # What --standalone does, but without asking for the name of this machine.
            "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0",
            "--local-addr", "127.0.0.1",
            "--nproc-per-node", str(ranks), "--log-dir", str(folder / "errors"),
            "-m", module, str(folder),
        ]  # fmt: skip
        with (folder / LOG).open("w") as log:
            process = subprocess.Popen(
                command,
                env={**os.environ, "OMP_NUM_THREADS": str(threads), **environment},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # so that Ctrl-C is ours to pass on, to all ranks
            )
            try:
                assert process.stdout
                for line in process.stdout:
                    print(f"  {line}", end="", flush=True)
                return process.wait()
            finally:
                _stop(process)


def _stop(process: subprocess.Popen[str]) -> None:
    """End what is left of the group, torchrun first: it takes its ranks along."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            pass
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def failure(log: str, path: Path) -> str:
    """One message out of what torchrun writes about the first rank that failed."""
    _, _, cause = log.rpartition("Root Cause (first observed failure):")
    rank, code = (re.search(rf"{name}\s*:\s*(-?\d+)", cause) for name in ("rank", "exitcode"))
    if not (cause and rank and code):
        tail = "\n".join(f"  {line}" for line in log.splitlines()[-LAST:])
        return f"training: torchrun failed before its ranks ran; {path} ends with\n{tail}"
    return f"training: rank {rank[1]} {_what(cause, int(code[1]))}; its traceback is in {path}"


def _what(cause: str, code: int) -> str:
    file = re.search(r"error_file\s*:\s*(\S+)", cause)
    if file and Path(file[1]).exists():
        message = json.loads(Path(file[1]).read_text())["message"]
        text = message if isinstance(message, str) else message["message"]
        return f"failed with {text.strip().splitlines()[0]}"
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"exited with {code}"
