"""What keeps a worker small."""

import sys
from typing import Any

import pyarrow as pa


class _NoPandas:
    """Finds no pandas."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("not now", name=name)


def keep_pandas_out() -> None:
    """Have pyarrow not import pandas with its first array, where pandas is installed.

    It would look whether the array's values are of pandas; that costs 50 MB and half a
    second, and none here are. Who imports pandas later has all of it, `to_pandas()` too.
    """
    if "pandas" in sys.modules:
        return
    sys.meta_path.insert(0, _NoPandas)  # pyrefly: ignore[bad-argument-type]
    try:
        pa.array([0])  # it looks once
    finally:
        sys.meta_path.remove(_NoPandas)  # pyrefly: ignore[bad-argument-type]


def give_back() -> None:
    """Give the system what was freed, of Arrow's memory and of all other."""
    pa.default_memory_pool().release_unused()
