"""Files of a prediction log, as the servers write them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from modelyard.documents.prediction_log import file_name, hidden, is_whole

Row = dict[str, Any]
"""column → value"""


def write(folder: Path, rows: Sequence[Row]) -> Path:
    """One more file, under a name that no reader takes, then renamed."""
    folder.mkdir(exist_ok=True)
    path = folder / file_name(1, "host", 7, 1000, len(list(folder.iterdir())))
    new = folder / hidden(path.name)
    pl.DataFrame(rows, infer_schema_length=None).write_parquet(new)
    return new.rename(path)


def read(folder: Path) -> list[Row]:
    """All rows of all files that are whole."""
    paths = [path for path in sorted(folder.iterdir()) if is_whole(path.name)]
    return [row for path in paths for row in pl.read_parquet(path).to_dicts()]
