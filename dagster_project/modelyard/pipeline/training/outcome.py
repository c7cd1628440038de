"""How torchrun ended, as it says itself: `outcome.json` of the work folder.

torchrun's process writes it, whoever started that reads it. Sentences are made of it for
people; nothing is read out of the log.
"""

import signal
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from modelyard.documents.files import replaced
from modelyard.pipeline.training.workdir import LOG, MISTAKE, OUTCOME, Mistake

LOGGED = 60
"""lines of the log in Dagster, where a rank left no traceback of its own"""
LAST = 15
"""lines of the log in the message when torchrun itself failed"""


class Outcome(BaseModel):
    """What ended torchrun, or made it start its ranks again."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["rank", "signal", "rendezvous", "torchrun"]
    """a rank that failed; a signal to torchrun; ranks of several pods that did not find or lost
    one another; whatever else torchrun itself failed by"""
    rank: int = 0
    exit_code: int = 0
    """of the rank; below 0 the signal that killed it, and the one that torchrun got"""
    exception: str = ""
    """of the rank, in one line, empty where it left none; or why torchrun failed"""

    @property
    def signal_name(self) -> str:
        return signal.Signals(-self.exit_code).name if self.exit_code < 0 else ""

    @property
    def ended(self) -> str:
        """How the rank did."""
        if self.exception:
            return f"failed with {self.exception}"
        return (
            f"was killed by {self.signal_name}"
            if self.signal_name
            else f"exited with {self.exit_code}"
        )


def write(folder: Path, outcome: Outcome) -> None:
    """Nothing where the disk is full: that must not end what goes on, nor hide what ended."""
    with suppress(OSError), replaced(folder / OUTCOME) as new:
        new.write_text(outcome.model_dump_json())


def outcome_of(error: BaseException) -> Outcome:
    """Of what `torch.distributed.run` raised."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError

    if isinstance(error, ChildFailedError):
        return first_failure(error.failures)
    if isinstance(error, SignalException):
        return Outcome(kind="signal", exit_code=-error.sigval)
    chain = [error, error.__cause__, error.__context__]
    lost = any(isinstance(each, RendezvousError) for each in chain)
    kind = "rendezvous" if lost else "torchrun"
    return Outcome(kind=kind, exception=f"torchrun failed: {_line(error)}")


def _line(error: BaseException) -> str:
    said = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def first_failure(failures: dict[int, Any]) -> Outcome:
    """Of rank → torch's ProcessFailure: the one that failed first."""
    rank, first = min(failures.items(), key=lambda each: each[1].timestamp)
    exception = ""
    if Path(first.error_file).is_file():
        said = first.error_file_data["message"]
        text = said if isinstance(said, str) else said["message"]
        exception = text.strip().partition("\n")[0]
    return Outcome(kind="rank", rank=rank, exit_code=first.exitcode, exception=exception)


def recorded(folder: Path) -> Outcome | None:
    """What torchrun wrote last; None where it has lost no rank and has not failed."""
    path = folder / OUTCOME
    return Outcome.model_validate_json(path.read_bytes()) if path.exists() else None


def read(folder: Path, code: int) -> Outcome:
    """Of torchrun that ended with an exit code other than 0.

    One that was killed has written nothing, or of a rank that it started again before.
    """
    found = recorded(folder)
    if code < 0 and (found is None or found.kind != "signal"):
        return Outcome(kind="signal", exit_code=code)
    return found or Outcome(kind="torchrun", exception="torchrun failed before its ranks ran")


def mistake(folder: Path) -> Mistake | None:
    """An exception of a rank's own."""
    path = folder / MISTAKE
    return Mistake.model_validate_json(path.read_bytes()) if path.exists() else None


def was_stopped(folder: Path, code: int) -> bool:
    """Whether a signal to torchrun ended it, not a failure."""
    return mistake(folder) is None and read(folder, code).kind == "signal"


def failure(folder: Path, code: int = 1) -> str:
    """One message about the first rank that failed, and where more of it stands.

    Args:
        code: torchrun's exit code.
    """
    said = f"training: {cause(folder, code)}"
    if mistake(folder) is None:
        kind = read(folder, code).kind
        if kind == "signal":
            return f"{said}; run it again to go on from its last checkpoint"
        if kind != "rank":
            last = (folder / LOG).read_text().splitlines()[-LAST:]
            return "\n".join([f"{said}; {folder / LOG} ends with", *(f"  {line}" for line in last)])
    return f"{said}; its traceback is in {folder / LOG}"


def cause(folder: Path, code: int) -> str:
    """What went wrong, by what the ranks and torchrun left."""
    if own := mistake(folder):
        return str(own)
    found = read(folder, code)
    if found.kind == "signal":
        return f"stopped by {found.signal_name}"
    return f"rank {found.rank} {found.ended}" if found.kind == "rank" else found.exception


def traceback_of(folder: Path) -> str:
    """Of the mistake that a rank made; the end of the log where there was none."""
    if own := mistake(folder):
        return f"rank {own.rank}:\n{own.traceback}"
    return "\n".join((folder / LOG).read_text().splitlines()[-LOGGED:])
