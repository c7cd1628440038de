"""Preprocessing as layers: it is exported with the network, so serving cannot differ."""

import numpy as np
import torch
from torch import Tensor, nn

from modelyard.documents import Signature
from modelyard.pipeline.data.tensors import release

CHUNK_ROWS = 100_000


class Standardise(nn.Module):
    """numbers float32 [N, n] with NaN for missing → [N, n + nullable].

    Each number has the training rows' mean taken off and is divided by their standard
    deviation; a missing one becomes 0, the mean. A nullable number adds a column: 1 where
    it is missing.
    """

    mean: Tensor
    scale: Tensor
    nullable: Tensor

    def __init__(self, signature: Signature) -> None:
        super().__init__()
        nullable = [i for i, number in enumerate(signature.numbers) if number.nullable]
        self.width = len(signature.numbers) + len(nullable)
        self.register_buffer("mean", torch.zeros(len(signature.numbers)))
        self.register_buffer("scale", torch.ones(len(signature.numbers)))
        self.register_buffer("nullable", torch.tensor(nullable, dtype=torch.int64))

    def fit(self, numbers: np.ndarray) -> None:
        """Take mean and standard deviation [n] from the training rows [N, n]."""
        count, total, square = (np.zeros(numbers.shape[1]) for _ in range(3))
        # Deviations from a first guess: sums of raw squares would cancel.
        guess = np.nan_to_num(numbers[0].astype(np.float64)) if len(numbers) else 0.0
        for start in range(0, len(numbers), CHUNK_ROWS):
            chunk = numbers[start : start + CHUNK_ROWS].astype(np.float64) - guess
            count += np.isfinite(chunk).sum(axis=0)
            total += np.nansum(chunk, axis=0)
            square += np.nansum(chunk**2, axis=0)
            release(numbers)
        known = np.maximum(count, 1)
        mean = total / known
        deviation = np.sqrt(np.maximum(square / known - mean**2, 0))
        # A constant column says nothing; dividing by 1 keeps it at 0.
        scale = np.where(deviation > 1e-6 * (1 + np.abs(mean + guess)), deviation, 1.0)
        self.mean.copy_(torch.as_tensor(mean + guess))
        self.scale.copy_(torch.as_tensor(scale))

    def forward(self, numbers: Tensor) -> Tensor:
        missing = numbers.isnan()
        standard = torch.where(missing, 0.0, (numbers - self.mean) / self.scale)
        flags = missing.index_select(1, self.nullable).to(standard.dtype)
        return torch.cat([standard, flags], dim=1)


class Embeddings(nn.Module):
    """categories int64 [N, c] → [N, sum of widths]; code 0 (missing or unknown) has its own."""

    def __init__(self, signature: Signature, most: int) -> None:
        """Each category gets half as many dimensions as it has values, `most` at most."""
        super().__init__()
        sizes = [len(category.values) + 1 for category in signature.categories]
        self.tables = nn.ModuleList(nn.Embedding(n, min(most, (n + 1) // 2)) for n in sizes)
        self.width = sum(min(most, (n + 1) // 2) for n in sizes)

    def forward(self, categories: Tensor) -> Tensor:
        parts = [table(categories[:, i]) for i, table in enumerate(self.tables)]
        return torch.cat(parts, dim=1) if parts else categories.to(torch.float32)
