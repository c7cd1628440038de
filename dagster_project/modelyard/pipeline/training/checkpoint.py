"""Checkpoints that are complete or absent, by `torch.distributed.checkpoint`.

A checkpoint is a folder: each rank's tensors, and `progress.json` with all that is no
tensor, so that a person can read it. It is written beside its place, synced and renamed.
Any number of ranks can read it, whatever number wrote it.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch.distributed as dist

from modelyard.documents import UserError
from modelyard.pipeline.training.exchange import exchange

PROGRESS = "progress.json"
NEW = ".new"


def write(
    folder: Path, name: str, tensors: dict[str, Any], progress: dict[str, Any], group: Any
) -> str | None:
    """Write `folder/name` and drop the older ones; called by all ranks at once.

    Returns:
        why it could not be written (the older one is still there), or None.
    """
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.api import CheckpointException

    new = folder / NEW
    problem = _on_rank_0(lambda: _prepare(new, progress), group)
    if problem is None:
        try:
            dcp.save(tensors, storage_writer=dcp.FileSystemWriter(new), process_group=group)
        except CheckpointException as error:  # the same on all ranks
            problem = str(next(iter(error.failures.values()))[0])
        else:
            problem = _keep(new, folder / name, group)
    if problem is not None and dist.get_rank() == 0:
        shutil.rmtree(new, ignore_errors=True)
    return problem


def _keep(new: Path, place: Path, group: Any) -> str | None:
    """Let the checkpoint count: on the disk, or in the storage that ranks of pods share."""
    shared = exchange()
    if shared is None:
        return _on_rank_0(lambda: _publish(new, place), group)
    rank = dist.get_rank()
    return _on_all(lambda: shared.share(new, place.name, rank), group) or _on_rank_0(
        lambda: shared.publish(new, place.name), group
    )


def _on_all(action: Any, group: Any) -> str | None:
    """The first of what went wrong in `action` on any rank, told to all."""
    problem = None
    try:
        action()
    except OSError as error:
        problem = str(error)
    said: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(said, problem, group=group)
    return next((each for each in said if each), None)


def _on_rank_0(action: Any, group: Any) -> str | None:
    """What went wrong in `action` on rank 0, told to all."""
    said: list[str | None] = [None]
    if dist.get_rank() == 0:
        try:
            action()
        except OSError as error:
            said = [str(error)]
    dist.broadcast_object_list(said, src=0, group=group)
    return said[0]


def _prepare(new: Path, progress: dict[str, Any]) -> None:
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    with (new / PROGRESS).open("w") as file:
        json.dump(progress, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def _publish(new: Path, place: Path) -> None:
    _sync(new)
    os.rename(new, place)
    _sync(place.parent)
    for old in complete(place.parent):
        if old != place:
            shutil.rmtree(old, ignore_errors=True)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def complete(folder: Path) -> list[Path]:
    """The checkpoints of a folder, oldest first."""
    return sorted(path for path in folder.glob("[0-9]*-[0-9]*") if path.is_dir())


def newest(folder: Path, group: Any) -> tuple[Path, dict[str, Any]] | None:
    """The last checkpoint and its progress, as rank 0 sees them; None where there is none."""
    _fetch(folder, group)
    found: list[Any] = [None]
    if dist.get_rank() == 0 and (paths := complete(folder)):
        found = [(paths[-1], json.loads((paths[-1] / PROGRESS).read_text()))]
    dist.broadcast_object_list(found, src=0, group=group)
    return found[0]


def _fetch(folder: Path, group: Any) -> None:
    """To each pod the newest checkpoint of the storage that they share, if they do."""
    shared = exchange()
    if shared is None:
        return
    names = [shared.complete() if dist.get_rank() == 0 else []]
    dist.broadcast_object_list(names, src=0, group=group)

    def fetch() -> None:
        if os.environ["LOCAL_RANK"] == "0":
            shutil.rmtree(folder, ignore_errors=True)
            for name in names[0][-1:]:
                shared.fetch(name, folder)

    if problem := _on_all(fetch, group):
        raise UserError(f"no checkpoint from the object storage: {problem}")


def read(path: Path, tensors: dict[str, Any], group: Any) -> None:
    """Fill `tensors`, which have the shapes to read, in place.

    Raises:
        UserError: the checkpoint is damaged, or of another network.
    """
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        dcp.load(tensors, storage_reader=dcp.FileSystemReader(path), process_group=group)
    except CheckpointException as error:
        cause = next(iter(error.failures.values()))[0]
        raise UserError(
            f"checkpoint {path} cannot be read ({cause}); delete {path.parent} to start over"
        ) from None
