"""Which rows of the training and validation set a rank works on, batch by batch."""

from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from modelyard.pipeline.config.settings import TrainingSettings
from modelyard.pipeline.data.tensors import Arrays
from modelyard.pipeline.training.loader import Batch, Feed
from modelyard.pipeline.training.ranks import Ranks


class Rows:
    """The rows of a work folder, and this rank's share of them."""

    def __init__(self, folder: Path, settings: TrainingSettings, ranks: Ranks) -> None:
        self._settings, self._ranks = settings, ranks
        self.train = Arrays.mapped(folder / "train")
        self.validation = Arrays.mapped(folder / "validation")
        self._train = Feed(self.train, ranks.device)
        self._validation = Feed(self.validation, ranks.device)

    def per_step(self, ranks: int) -> int:
        """Of a global batch, over all of `ranks`."""
        return max(1, min(self._settings.batch_rows, len(self.train)) // ranks) * ranks

    @property
    def steps_per_epoch(self) -> int:
        return max(1, len(self.train) // self.per_step(self._ranks.count))

    def shares(self, epoch: int) -> Iterator[Tensor]:
        """This rank's share [B] of each global batch, shuffled anew each epoch.

        All ranks shuffle alike and take shares of equal size, so none waits for another;
        fewer rows than a last whole batch are left for another epoch's order.
        """
        rows = self.per_step(self._ranks.count)
        share = rows // self._ranks.count
        for batch in self._train.shuffled(rows, self._settings.seed * 1_000_003 + epoch):
            yield batch[self._ranks.rank * share :][:share]

    def take(self, rows: Tensor) -> Batch:
        """Training rows, as `shares` gave them."""
        return self._train.take(rows)

    def validation_batches(self) -> Iterator[Batch]:
        """This rank's part of the validation rows, in order; each rank has as many batches."""
        size, ranks = self._settings.batch_rows, self._ranks
        for rows in self._validation.in_order(size, ranks.rank, ranks.count):
            yield self._validation.take(rows)
