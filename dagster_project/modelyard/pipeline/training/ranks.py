"""The ranks of a training, as one of them sees them: who it is, and what they do together."""

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

PATIENCE = timedelta(minutes=10)
"""how long a rank waits for the others before it gives up: they may be sending a large checkpoint
to a slow storage. The loss of one that is gone is noticed at once."""
KEPT: list[Any] = []
"""Process groups until the rank is gone: gloo's end, when Python counts its last reference, waits
for a thread that waits for Python (torch 2.13, ProcessGroupGloo::~ProcessGroupGloo)."""


class Stopped(BaseException):
    """Told to stop, and ready to: the way out of the loop."""


class Ranks:
    """This rank's number, how many there are, its device, and what all of them agree on."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.rank, self.count = dist.get_rank(), dist.get_world_size()
        # What the ranks agree on travels over the CPU, beside a GPU's own traffic.
        cuda = device.type == "cuda"
        self.control = dist.new_group(backend="gloo", timeout=PATIENCE) if cuda else None
        KEPT.extend([dist.group.WORLD, self.control])
        self.stopping = False

    def stop(self, *_: object) -> None:
        """SIGTERM: go on to the next pulse, where all ranks learn of it."""
        self.stopping = True

    def sums(self, values: Sequence[float]) -> list[float]:
        """Each of the values, summed over all ranks."""
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total, group=self.control)
        return total.tolist()

    def mean(self, loss: float) -> float:
        """Of each rank's training loss.

        Raises:
            FloatingPointError: it is not finite.
        """
        (total,) = self.sums([loss])
        if not math.isfinite(total):
            raise not_finite(f"training loss is {total}")
        return total / self.count

    def mean_over_rows(self, sums: Sequence[Tensor], rows: int) -> float:
        """Sums of a loss over this rank's validation rows → the mean over the `rows` of all ranks.

        Raises:
            FloatingPointError: it is not finite.
        """
        total = torch.stack(list(sums)).sum() if sums else torch.zeros((), device=self.device)
        dist.all_reduce(total)
        value = total.item() / rows
        if not math.isfinite(value):
            raise not_finite(f"validation loss is {value}")
        return value

    def check_finite(self, network: nn.Module, epoch: int, step: int) -> None:
        """No rank writes a checkpoint of weights that are of no use."""
        local = (getattr(p, "to_local", lambda p=p: p)() for p in network.parameters())
        bad = sum(not part.isfinite().all().item() for part in local)
        if self.sums([bad])[0]:
            raise not_finite("weights are no longer finite", epoch, step)


def not_finite(said: str, epoch: int = 0, step: int = 0) -> FloatingPointError:
    where = f" in epoch {epoch}, step {step}" if epoch else ""
    return FloatingPointError(f"the {said}{where}; try a lower learning_rate")


@contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """The ranks of this training (nccl on GPUs, else gloo), until the block ends.

    Args:
        device: `training.device` of config.yaml.
    """
    own = _device(device)
    cuda = own.type == "cuda"
    dist.init_process_group(
        "nccl" if cuda else "gloo", timeout=PATIENCE, device_id=own if cuda else None
    )
    try:
        yield Ranks(own)
    finally:
        dist.destroy_process_group()


def _device(wanted: str) -> torch.device:
    local = int(os.environ.get("LOCAL_RANK", "0"))
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    enough = torch.cuda.is_available() and ranks <= torch.cuda.device_count()
    if wanted == "cpu" or (wanted == "auto" and not enough):
        return torch.device("cpu")
    device = torch.device("cuda", local)
    torch.cuda.set_device(device)
    return device


def idle_gpus(wanted: str, ranks: Ranks) -> int:
    """The GPUs that rank 0 sees and nobody uses, because there are fewer than ranks."""
    left = ranks.rank == 0 and wanted == "auto" and ranks.device.type == "cpu"
    return torch.cuda.device_count() if left else 0
