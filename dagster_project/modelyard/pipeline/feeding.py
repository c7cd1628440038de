"""Rows to a rank, batch by batch, out of memory-mapped columns.

Indexing the mapped columns is as fast as indexing tensors; a DataLoader takes a quarter of
the time or more. Sets larger than a window are shuffled window by window: a window is made
of randomly chosen blocks, read from the disk in runs, and its pages are let go afterwards,
so that a rank's memory does not grow with the set.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from modelyard.pipeline.arrays import Arrays

Batch = tuple[Tensor, Tensor, Tensor]
"""numbers float32 [B, n], categories int64 [B, c], target [B]"""

BLOCK_ROWS = 1024
"""rows that are read in one run; with less, a disk would seek for each row"""
WINDOW_BYTES = 64 * 2**20
"""of the columns; what a rank holds of them at most"""


class Feed:
    """One data set as one rank reads it."""

    def __init__(self, arrays: Arrays, device: torch.device, window: int = WINDOW_BYTES) -> None:
        self.arrays, self.device = arrays, device
        columns = (arrays.numbers, arrays.categories, arrays.target)
        self._columns = [torch.from_numpy(column) for column in columns]
        width = sum(column[:1].nbytes for column in columns)
        self.window_rows = max(BLOCK_ROWS, window // max(1, width))

    def __len__(self) -> int:
        return len(self.arrays)

    def take(self, rows: Tensor) -> Batch:
        """The rows with these indices [B], on the device."""
        numbers, categories, target = (column[rows] for column in self._columns)
        if self.device.type == "cpu":
            return numbers, categories, target
        numbers, categories, target = (
            part.pin_memory().to(self.device, non_blocking=True)
            for part in (numbers, categories, target)
        )
        return numbers, categories, target

    def shuffled(self, size: int, seed: int) -> Iterator[Tensor]:
        """Indices of all rows in random order, `size` [size] at a time; a rest is left out.

        The same on every rank and machine for the same seed.
        """
        rest = torch.empty(0, dtype=torch.int64)
        for window in self._windows(torch.Generator().manual_seed(seed)):
            rest = torch.cat([rest, window])
            whole = len(rest) // size * size
            yield from rest[:whole].split(size)
            rest = rest[whole:]
            if self.window_rows < len(self):
                self.arrays.release()

    def _windows(self, random: torch.Generator) -> Iterator[Tensor]:
        rows = len(self)
        if rows <= self.window_rows:
            yield torch.randperm(rows, generator=random)
            return
        blocks = torch.randperm(math.ceil(rows / BLOCK_ROWS), generator=random)
        for chosen in blocks.split(self.window_rows // BLOCK_ROWS):
            window = (chosen[:, None] * BLOCK_ROWS + torch.arange(BLOCK_ROWS)).flatten()
            window = window[window < rows]
            yield window[torch.randperm(len(window), generator=random)]

    def in_order(self, size: int, rank: int, ranks: int) -> Iterator[Tensor]:
        """Indices of this rank's part of all rows; each rank gets as many batches."""
        mine = torch.arange(rank, len(self), ranks)
        batches = math.ceil(math.ceil(len(self) / ranks) / size)
        split = mine.split(size)
        taken = 0
        for rows in split if len(split) == batches else mine.tensor_split(batches):
            yield rows
            taken += len(rows) * ranks
            if taken >= self.window_rows:
                self.arrays.release()
                taken = 0
