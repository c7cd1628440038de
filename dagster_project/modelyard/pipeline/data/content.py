"""Content hashes of frames, kept in the metadata of their Parquet files."""

import hashlib
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

import polars as pl

HASH = "modelyard.content"
"""key of the content's hash in a Parquet file's metadata"""


def content_hash(frame: pl.DataFrame) -> str:
    """SHA-256 over names, types and values; the same however the frame was put together."""
    digest = hashlib.sha256()
    for column in frame.rechunk():
        missing, values = column.is_null().arg_true(), column.drop_nulls()
        # Gathered, the bytes hold no more than the values: nothing under nulls or beside a slice.
        values = values.gather(pl.int_range(len(values), eager=True))
        for part in (missing, values):
            buffer = BytesIO()
            # Without views, a column's bytes depend on its values alone.
            part.to_frame().write_ipc_stream(buffer, compat_level=pl.CompatLevel.oldest())
            digest.update(buffer.getbuffer())
    return digest.hexdigest()


def combined(hashes: Iterable[str]) -> str:
    """One hash for a sequence of partitions."""
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def stored_hash(path: Path) -> str:
    return pl.read_parquet_metadata(path)[HASH]


def rows_in(paths: Iterable[Path]) -> int:
    """Rows of Parquet files, read from their footers."""
    found = [path for path in paths if path.exists()]
    return pl.scan_parquet(found).select(pl.len()).collect().item() if found else 0
