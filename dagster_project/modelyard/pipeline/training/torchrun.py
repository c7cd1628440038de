"""torchrun, whose ranks begin with torch imported already.

    python -m modelyard.pipeline.training.torchrun [OPTIONS OF TORCHRUN] MODULE FOLDER

The ranks are forked from one process (multiprocessing's forkserver) that imports what all of
them need while torchrun itself starts. They begin when a line comes on stdin, and are told to
stop when stdin ends: who started them is gone.
"""

import os
import signal
import sys
import threading
from contextlib import suppress
from multiprocessing import forkserver
from pathlib import Path
from typing import IO

from modelyard.pipeline.training.importing import importing

GRACE = 60
"""seconds that the ranks have for a checkpoint when they are told to stop"""


def begin(stdin: IO[str]) -> None:
    """The word that `modelyard.pipeline.training.torchrun` waits for."""
    with suppress(BrokenPipeError):  # it has failed already, and its log says why
        stdin.write("\n")
        stdin.flush()


def main() -> None:
    os.environ["PYTHONUNBUFFERED"] = "1"  # what a rank prints is seen at once
    # What a script starts with `&` ignores SIGINT; Dagster then has it ignore SIGTERM, too, and
    # children inherit that. But the process that ranks are forked from has to end by SIGTERM.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    forkserver.set_forkserver_preload(["modelyard.pipeline.training.preload"])
    forkserver.ensure_running()
    with importing():
        from torch.distributed.run import main as torchrun

        from modelyard.pipeline.training import outcome
    if not sys.stdin.readline():
        return
    threading.Thread(target=_stop_with_the_starter, daemon=True).start()
    *options, module, folder = sys.argv[1:]
    _record_restarts(Path(folder))
    worker = str(Path(__file__).with_name("worker.py"))
    try:
        torchrun(["--start-method", "forkserver", "--run-path", *options, worker, module, folder])
    except Exception as error:
        outcome.write(Path(folder), outcome.outcome_of(error))
        raise


def _record_restarts(folder: Path) -> None:
    """Keep which rank failed also where torchrun starts all of them again, and raises nothing.

    torch 2.13 tells of it in its log alone, and its launcher has no place for an agent of one's
    own; the agent's methods are made to be overridden.
    """
    from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup
    from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
    from torch.distributed.launcher import api

    from modelyard.pipeline.training import outcome

    class Agent(LocalElasticAgent):
        def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
            result = super()._monitor_workers(worker_group)
            if result.is_failed() and result.failures:
                outcome.write(folder, outcome.first_failure(result.failures))
            return result

    api.LocalElasticAgent = Agent  # pyrefly: ignore[bad-assignment]


def _stop_with_the_starter() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
