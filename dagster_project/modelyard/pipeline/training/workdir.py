"""The work folder of a training: what goes to the ranks, and what comes back.

`job.json` (settings and signature), `train/` and `validation/` (`arrays.Arrays`) go in;
`weights.pt` and `history.json` come back, `checkpoints/` lets it go on after a stop;
`log.txt`, `errors/`, `outcome.json` and `mistake.json` tell of a failure.
"""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from traceback import extract_tb, format_exception
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from modelyard.documents import Signature, UserError

JOB = "job.json"
WEIGHTS = "weights.pt"
HISTORY = "history.json"
LOG = "log.txt"
CHECKPOINTS = "checkpoints"
REPORTS = "messages.jsonl"
"""what rank 0 reports, by Dagster Pipes's protocol"""
OUTCOME = "outcome.json"
"""how torchrun ended (`outcome.Outcome`); cleared by who starts it"""
MISTAKE = "mistake.json"
"""an exception of a rank's own: it would come again, so the ranks are not started again"""
QUIET = "MODELYARD_QUIET"
"""environment variable: set where the curve is read from rank 0's reports, and a blank
line printed in its place"""


class Unfinished(UserError):
    """A training that was stopped before its end, and goes on when it's asked for again."""


def unfinished(folder: Path) -> bool:
    """Whether a training was stopped here that has a checkpoint to go on from."""
    there = (folder / JOB).exists() and not (folder / WEIGHTS).exists()
    return there and any((folder / CHECKPOINTS).glob("[0-9]*-[0-9]*"))


class Job(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    settings: dict[str, Any]
    """`training:` of config.yaml"""
    signature: Signature
    fingerprint: str = ""
    """of all that the result follows from but the number of ranks: checkpoints fit no other"""


class Mistake(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    rank: int
    message: str
    """the exception, in one line"""
    place: str = ""
    """in the training module's own code: `src/flight_delay/train.py:31 in main`"""
    traceback: str = ""

    @classmethod
    def from_error(cls, error: Exception, rank: int, own: Path) -> Self:
        """`own` is the folder that the training module lies in."""
        told = error.msg if isinstance(error, SyntaxError) else str(error)
        text = f"{type(error).__name__}: {told.strip()}".splitlines()[0]
        said = "".join(format_exception(error))
        return cls(rank=rank, message=text, place=_place(error, own), traceback=said)

    def __str__(self) -> str:
        where = f"at {self.place}:" if self.place else "with"
        return f"rank {self.rank} failed {where} {self.message}"


def _place(error: Exception, own: Path) -> str:
    """The innermost line that is the team's own; empty where the exception never was there."""
    places = [(f.filename, f"{f.lineno} in {f.name}") for f in extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename:  # of what was imported, not run
        places.append((error.filename, str(error.lineno)))
    ours = [(Path(file), line) for file, line in places if Path(file).is_relative_to(own)]
    if not ours:
        return ""
    path, line = ours[-1]
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return f"{shown}:{line}"


class Epoch(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    epoch: int
    train_loss: float
    validation_loss: float
    metrics: dict[str, float] = {}
    """what else the loop measures on the validation rows"""
    seconds: float
    learning_rate: float
    """at the end"""
    rows: int = 0
    """training rows"""
    ended: float = 0
    """in seconds since the epoch of the clock"""

    def figures(self) -> dict[str, float]:
        """What a curve shows of it, by name."""
        measured = {f"validation_{name}": value for name, value in self.metrics.items()}
        return {
            "train_loss": self.train_loss,
            "validation_loss": self.validation_loss,
            **measured,
            "learning_rate": self.learning_rate,
            "rows_per_second": self.rows / self.seconds,
        }


class History(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    ranks: int
    rows: int
    """training rows"""
    best_epoch: int
    best_validation_loss: float
    seconds: float
    """of the epochs, without the start of the ranks"""
    epochs: tuple[Epoch, ...]
    environment: dict[str, str] = {}
    """device, cpu (its instruction set, as torch calls it) and threads of a rank"""
    first_step: float = 0
    """when it was done, in seconds since the epoch"""
    peak_memory: int = 0
    """of rank 0, in bytes"""


def read_history(folder: Path) -> History:
    return History.model_validate(json.loads((folder / HISTORY).read_text()))


class Messages:
    """Rank 0's own messages in a file that it adds to while this is read."""

    def __init__(self, path: Path) -> None:
        self._path, self._read = path, 0

    def new(self) -> Iterator[dict[str, Any]]:
        """What came since the last call, such as `{"epoch": {…}}`, without Dagster's own."""
        if not self._path.exists():
            return
        with self._path.open() as file:
            file.seek(self._read)
            text = file.read()
        whole = text[: text.rfind("\n") + 1]
        self._read += len(whole.encode())
        for line in whole.splitlines():
            with suppress(ValueError):  # torn by a full disk
                payload = (json.loads(line).get("params") or {}).get("payload")
                if isinstance(payload, dict):
                    yield payload
