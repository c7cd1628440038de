"""The work folder of a training: what goes to the ranks, and what comes back.

`job.json` (settings and signature), `train/` and `validation/` (`arrays.Arrays`) go in;
`weights.pt` and `history.json` come back, `log.txt` and `errors/` tell of a failure.
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


class Job(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    settings: dict[str, Any]
    """`training:` of config.yaml"""
    signature: Signature


class Epoch(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    epoch: int
    train_loss: float
    validation_loss: float
    seconds: float


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


def read_history(folder: Path) -> History:
    return History.model_validate(json.loads((folder / HISTORY).read_text()))
