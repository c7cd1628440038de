"""Checkpoints of ranks that share no disk, by way of object storage."""

import os
from pathlib import Path

from modelyard.pipeline.storage.objects import STORAGE, Objects


class Exchange:
    """Checkpoints of ranks that share no disk.

    Each rank uploads its own part; rank 0 adds `progress.json` when all have: a checkpoint
    without it is none.
    """

    MARK = "progress.json"

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def complete(self) -> list[str]:
        """Names of the checkpoints, oldest first."""
        names = (name.split("/") for name in self._objects.sizes("checkpoints"))
        return sorted(parts[1] for parts in names if parts[2:] == [self.MARK])

    def share(self, folder: Path, name: str, rank: int) -> None:
        """Upload what this rank wrote of the checkpoint in `folder`, and rank 0 the index."""
        if name in self.complete():  # told to stop before the first step
            return
        files = [*folder.glob(f"__{rank}_*"), *([folder / ".metadata"] if rank == 0 else [])]
        for file in files:
            self._objects.upload(file, f"checkpoints/{name}/{file.name}")

    def publish(self, folder: Path, name: str) -> None:
        """Called by rank 0 when all ranks have shared their parts; drops the older ones."""
        self._objects.put(f"checkpoints/{name}/{self.MARK}", (folder / self.MARK).read_bytes())
        for old in self.complete():
            if old != name:
                self._objects.delete(f"checkpoints/{old}")

    def fetch(self, name: str, folder: Path) -> None:
        """Called by one rank of each pod."""
        self._objects.download_folder(f"checkpoints/{name}", folder / name)


def exchange() -> Exchange | None:
    """Of the training that this process is a rank of; None where the ranks share a disk."""
    uri = os.environ.get(STORAGE)
    return Exchange(Objects(uri)) if uri else None
