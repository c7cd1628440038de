"""Why a training failed: one message about the first rank that did, and its traceback."""

import json
import re
import signal
from pathlib import Path

from modelyard.pipeline.training.workdir import LOG, MISTAKE, Mistake

LOGGED = 60
"""lines of the log in Dagster, where a rank left no traceback of its own"""


LAST = 15
"""lines of the log in the message when the ranks never started"""


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
    if name := stopped_by(folder, code):
        return f"training: stopped by {name}; run it again to go on from its last checkpoint"
    _, _, cause = log.rpartition("Root Cause (first observed failure):")
    rank, exited = (re.search(rf"{name}\s*:\s*(-?\d+)", cause) for name in ("rank", "exitcode"))
    if not (cause and rank and exited):
        tail = "\n".join(f"  {line}" for line in log.splitlines()[-LAST:])
        return f"training: torchrun failed before its ranks ran; {path} ends with\n{tail}"
    return f"training: rank {rank[1]} {_what(cause, int(exited[1]))}; {end}"


def stopped_by(folder: Path, code: int) -> str:
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
