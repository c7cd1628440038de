"""Files and folders that are replaced whole or not at all, and the hash of what is in one."""

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ASIDE = ".aside"
"""a folder that is being replaced, in a temporary one"""
ABANDONED = 24 * 3600
"""seconds after which nobody writes to a temporary folder any more"""


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A temporary file that takes the place of `path` when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(path.suffix, f".{path.stem}.", path.parent)
    os.close(handle)
    try:
        yield Path(name)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


@contextmanager
def replaced_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of `path` when the block ends well.

    First, what a killed run left beside `path` is cleared away; had that run moved the
    folder aside and put nothing in its place yet, the folder comes back.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _recover(path)
    new = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    new.chmod(0o755)
    try:
        yield new
        if path.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
            os.rename(path, old / ASIDE)
            os.rename(new, path)
            shutil.rmtree(old)
        else:
            os.rename(new, path)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _recover(path: Path) -> None:
    for left in path.parent.glob(f".{path.name}.*"):
        if (left / ASIDE).exists() and not path.exists():
            os.rename(left / ASIDE, path)
        if time.time() - left.stat().st_mtime > ABANDONED:
            shutil.rmtree(left, ignore_errors=True)


def sha256(path: Path) -> str:
    """Of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
