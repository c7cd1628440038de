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
    if not sys.stdin.readline():
        return
    threading.Thread(target=_stop_with_the_starter, daemon=True).start()
    *options, module, folder = sys.argv[1:]
    worker = str(Path(__file__).with_name("worker.py"))
    torchrun(["--start-method", "forkserver", "--run-path", *options, worker, module, folder])


def _stop_with_the_starter() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
