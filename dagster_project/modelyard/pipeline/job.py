"""The work folder of a training: what goes to the ranks, and what comes back.

`job.json` (settings and signature), `train/` and `validation/` (`arrays.Arrays`) go in;
`weights.pt` and `history.json` come back, `checkpoints/` lets it go on after a stop;
`log.txt`, `errors/` and `mistake.json` tell of a failure.
"""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from modelyard.documents import Signature

JOB = "job.json"
WEIGHTS = "weights.pt"
HISTORY = "history.json"
LOG = "log.txt"
CHECKPOINTS = "checkpoints"
MISTAKE = "mistake.json"
"""an exception of a rank's own: it would come again, so the ranks are not started again"""


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


class Epoch(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    epoch: int
    train_loss: float
    validation_loss: float
    seconds: float
    learning_rate: float
    """at the end"""


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
