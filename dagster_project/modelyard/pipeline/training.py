"""The parts of a training loop that are the same for every model; runs inside each rank."""

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.elastic.multiprocessing.errors import record

from modelyard.documents import Signature
from modelyard.pipeline.arrays import Arrays
from modelyard.pipeline.job import HISTORY, JOB, WEIGHTS, Epoch, History, Job
from modelyard.pipeline.settings import TrainingSettings
from modelyard.pipeline.workspace import replaced

Settings = TypeVar("Settings", bound=TrainingSettings)
Batch = tuple[Tensor, Tensor, Tensor]
"""numbers float32 [B, n], categories int64 [B, c], target [B]"""

PATIENCE = timedelta(minutes=2)
"""how long a rank waits for the others before it gives up"""


def start(main: Callable[[], None]) -> None:
    """Run a rank's `main`; torchrun learns of its exception and stops the other ranks."""
    record(main)()


@contextmanager
def session(settings: type[Settings]) -> "Iterator[Run[Settings]]":
    """One rank's view of the training whose work folder is the first argument.

    Joins the process group (gloo), seeds torch, and reports to Dagster from rank 0 only.
    """
    folder = Path(sys.argv[1])
    job = Job.model_validate_json((folder / JOB).read_bytes())
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    dist.init_process_group("gloo", timeout=PATIENCE)
    try:
        run = Run(folder, settings.model_validate(job.settings), job.signature)
        torch.manual_seed(run.settings.seed)
        with _pipes(run.rank) as run.pipes:
            yield run
    finally:
        dist.destroy_process_group()


@contextmanager
def _pipes(rank: int) -> Iterator[Any]:
    from dagster_pipes import DAGSTER_PIPES_CONTEXT_ENV_VAR, open_dagster_pipes

    if rank or DAGSTER_PIPES_CONTEXT_ENV_VAR not in os.environ:
        yield None  # a second writer would tear the messages
        return
    with open_dagster_pipes() as pipes:
        yield pipes


class Run(Generic[Settings]):
    """What a loop needs: data, this rank's batches, and the way back."""

    pipes: Any = None

    def __init__(self, folder: Path, settings: Settings, signature: Signature) -> None:
        self.folder, self.settings, self.signature = folder, settings, signature
        self.rank, self.ranks = dist.get_rank(), dist.get_world_size()
        self.train = Arrays.mapped(folder / "train")
        self.validation = Arrays.mapped(folder / "validation")
        self._train, self._validation = _tensors(self.train), _tensors(self.validation)
        self._epochs: list[Epoch] = []
        self._start = self._last = time.monotonic()

    def batches(self, epoch: int) -> "Batches":
        """This rank's share of each global batch, shuffled anew each epoch.

        All ranks shuffle alike and take shares of equal size, so none waits for another;
        fewer rows than a last whole batch are left for another epoch's order.
        """
        order = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + epoch)
        rows = torch.randperm(len(self.train), generator=order)
        share = max(1, min(self.settings.batch_rows, len(self.train)) // self.ranks)
        steps = max(1, len(self.train) // (share * self.ranks))
        mine = [rows[(step * self.ranks + self.rank) * share :][:share] for step in range(steps)]
        return Batches(self._train, mine)

    def validation_batches(self) -> "Batches":
        """This rank's part of the validation rows, in order."""
        mine = torch.arange(self.rank, len(self.validation), self.ranks)
        return Batches(self._validation, mine.split(max(1, self.settings.batch_rows)))

    def mean_over_validation(self, sums: Sequence[Tensor]) -> float:
        """Sums over this rank's validation rows → the mean over all, the same on each rank."""
        total = torch.stack(list(sums)).sum() if sums else torch.zeros(())
        dist.all_reduce(total)
        return self._finite(total.item() / len(self.validation), "validation loss")

    def mean_over_ranks(self, value: float) -> float:
        total = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(total)
        return self._finite(total.item() / self.ranks, "training loss")

    def _finite(self, value: float, what: str) -> float:
        if not math.isfinite(value):
            raise FloatingPointError(f"the {what} is {value}; try a lower learning_rate")
        return value

    def report(self, epoch: int, train_loss: float, validation_loss: float) -> None:
        """One line in the terminal, from rank 0."""
        now = time.monotonic()
        seconds, self._last = now - self._last, now
        self._epochs.append(Epoch(epoch=epoch, train_loss=train_loss,
                                  validation_loss=validation_loss, seconds=seconds))  # fmt: skip
        if self.rank == 0:
            print(
                f"epoch {epoch:3d}/{self.settings.epochs}  loss {train_loss:.4f}  "
                f"validation {validation_loss:.4f}  {len(self.train) / seconds:10,.0f} rows/s",
                flush=True,
            )

    def finish(self, weights: dict[str, Tensor], epoch: int, validation_loss: float) -> None:
        """Hand back the best weights and how the training went; rank 0 writes."""
        if self.rank:
            return
        history = History(
            ranks=self.ranks, rows=len(self.train), best_epoch=epoch,
            best_validation_loss=validation_loss, seconds=time.monotonic() - self._start,
            epochs=tuple(self._epochs),
        )  # fmt: skip
        with replaced(self.folder / HISTORY) as new:
            new.write_text(json.dumps(history.model_dump(mode="json"), indent=1))
        with replaced(self.folder / WEIGHTS) as new:
            torch.save(weights, new)
        if self.pipes:
            self.pipes.log.info(f"best epoch {epoch}: validation loss {validation_loss:.4f}")


class Batches:
    """Rows by raw tensor indexing: a DataLoader would take a quarter of the time or more."""

    def __init__(self, tensors: Batch, rows: Sequence[Tensor]) -> None:
        self.tensors, self.rows = tensors, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Batch]:
        numbers, categories, target = self.tensors
        for rows in self.rows:
            yield numbers[rows], categories[rows], target[rows]


def _tensors(arrays: Arrays) -> Batch:
    return (
        torch.from_numpy(arrays.numbers),
        torch.from_numpy(arrays.categories),
        torch.from_numpy(arrays.target),
    )
