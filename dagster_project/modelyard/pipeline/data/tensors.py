"""Frames as the arrays that a network reads."""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from modelyard.coding import Coder
from modelyard.documents import Signature, UserError
from modelyard.documents.signature import Category, Number

if TYPE_CHECKING:
    import polars as pl

CHUNK_ROWS = 100_000


@dataclass(frozen=True)
class Arrays:
    """numbers float32 [N, numbers], categories int64 [N, categories], target [N].

    The target is float32 (binary, regression) or int64 (multiclass).
    """

    numbers: np.ndarray
    categories: np.ndarray
    target: np.ndarray

    def __len__(self) -> int:
        return len(self.target)

    @classmethod
    def mapped(cls, folder: Path) -> Self:
        """Memory-mapped, so that ranks share one copy. Private: nothing writes through."""
        names = ("numbers", "categories", "target")
        return cls(*(np.load(folder / f"{name}.npy", mmap_mode="c") for name in names))

    def release(self) -> None:
        """Let go of the pages that were read; see `release`."""
        for column in (self.numbers, self.categories, self.target):
            release(column)


def release(column: np.ndarray) -> None:
    """Let go of what was read of a memory-mapped column; nothing for another array.

    The pages stay in the system's cache, so reading them again is cheap; they no longer
    count as this process's memory.
    """
    mapped = getattr(column, "_mmap", None)
    if mapped is not None:
        mapped.madvise(mmap.MADV_DONTNEED)


def encode(frame: "pl.DataFrame", signature: Signature) -> tuple[np.ndarray, np.ndarray]:
    """Inputs as (numbers float32 [N, n], categories int64 [N, c]).

    Coded as for serving, see `modelyard.coding`.

    Raises:
        UserError: the frame lacks an input.
    """
    import polars as pl  # not at the top: ranks need none of it

    missing = [i.name for i in signature.inputs if i.name not in frame.columns]
    if missing:
        raise UserError(f"no column {', '.join(missing)}, which the model's signature asks for")

    def values(given: Number) -> np.ndarray:
        return frame[given.name].cast(pl.Float64).fill_null(float("nan")).to_numpy()

    def codes(given: Category) -> np.ndarray:
        text = frame[given.name].cast(pl.String)
        coded = text.replace_strict(given.codes, default=0, return_dtype=pl.Int64)
        return coded.fill_null(0).to_numpy()

    return Coder(signature).columns(len(frame), values, codes)


def target(frame: "pl.DataFrame", signature: Signature) -> np.ndarray:
    """[N] float32: 0 or 1 (binary) or the value (regression); int64: the class's index."""
    import polars as pl

    dtype = pl.Int64 if signature.task == "multiclass" else pl.Float32
    return frame[signature.target].cast(dtype).to_numpy()


def write_arrays(dataset: Path, signature: Signature, folder: Path) -> int:
    """A Parquet dataset → three `.npy` files, chunk by chunk; returns the rows."""
    import polars as pl

    folder.mkdir(parents=True)
    rows = pl.scan_parquet(dataset).select(pl.len()).collect().item()
    kind = np.int64 if signature.task == "multiclass" else np.float32
    shapes = {
        "numbers": (np.float32, (rows, len(signature.numbers))),
        "categories": (np.int64, (rows, len(signature.categories))),
        "target": (kind, (rows,)),
    }
    files = {
        name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, shape=shape)
        for name, (dtype, shape) in shapes.items()
    }
    start = 0
    for frame in chunks(dataset):
        end = start + len(frame)
        files["numbers"][start:end], files["categories"][start:end] = encode(frame, signature)
        files["target"][start:end] = target(frame, signature)
        start = end
    for file in files.values():
        file.flush()
    return rows


def chunks(dataset: Path, rows: int = CHUNK_ROWS) -> "Iterator[pl.DataFrame]":
    """A Parquet file piece by piece, so that memory does not grow with it."""
    import polars as pl

    yield from pl.scan_parquet(dataset).collect_batches(chunk_size=rows, maintain_order=True)
