"""What a training loop of the team's is made of."""

import json
import math
import resource
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from modelyard.documents import Signature
from modelyard.documents.files import replaced
from modelyard.pipeline.config.settings import TrainingSettings
from modelyard.pipeline.data.tensors import Arrays
from modelyard.pipeline.training.loader import Batch
from modelyard.pipeline.training.loop import Progress
from modelyard.pipeline.training.ranks import Ranks
from modelyard.pipeline.training.reporting import Reporter
from modelyard.pipeline.training.rows import Rows
from modelyard.pipeline.training.workdir import CHECKPOINTS, HISTORY, WEIGHTS, History

OwnSettings = TypeVar("OwnSettings", bound=TrainingSettings)


class Run(Generic[OwnSettings]):
    """One rank's view of a training: settings, data, network, and the way back."""

    def __init__(
        self,
        folder: Path,
        settings: OwnSettings,
        signature: Signature,
        ranks: Ranks,
        reporter: Reporter,
    ) -> None:
        self.settings, self.signature = settings, signature
        self.ranks, self.reporter = ranks, reporter
        self.rows = Rows(folder, settings, ranks)
        self._folder = folder

    @property
    def train(self) -> Arrays:
        """All training rows."""
        return self.rows.train

    def distribute(self, network: nn.Module) -> nn.Module:
        """The network on this rank's device, with its gradients summed over all ranks.

        ddp: a copy on each rank. fsdp2: parameters, gradients and the optimizer's state are
        shared out; a network of several large blocks saves more by calling `fully_shard` on
        each of them first.
        """
        device = self.ranks.device
        network.to(device)
        if self.settings.strategy == "fsdp2":
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.fsdp import fully_shard

            mesh = init_device_mesh(device.type, (self.ranks.count,))
            fully_shard(network, mesh=mesh)
            return network
        devices = [device] if device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(network, device_ids=devices)

    def schedule(self, optimizer: Optimizer) -> LRScheduler:
        """`settings.schedule` of the learning rate, step by step."""
        return schedule(optimizer, self.settings, self.rows.steps_per_epoch)

    def progress(self, model: nn.Module, optimizer: Optimizer, schedule: LRScheduler) -> Progress:
        """Epochs and steps, from the last checkpoint on if there is one."""
        return Progress(
            self.rows, self.ranks, self.reporter, self.settings, self._folder / CHECKPOINTS,
            model, optimizer, schedule,
        )  # fmt: skip

    def precision(self) -> torch.autocast:
        """Within, matrix products are of `settings.precision`."""
        wanted = self.settings.precision == "bfloat16"
        return torch.autocast(self.ranks.device.type, torch.bfloat16, enabled=wanted)

    def validation_batches(self) -> Iterator[Batch]:
        """This rank's part of the validation rows, in order; each rank has as many batches."""
        return self.rows.validation_batches()

    def mean_over_validation(self, sums: Sequence[Tensor]) -> float:
        """Sums over this rank's validation rows → the mean over all, the same on each rank."""
        return self.ranks.mean_over_rows(sums, len(self.rows.validation))

    def finish(self, progress: Progress) -> None:
        """Hand back the best weights and how the training went; rank 0 writes."""
        weights = progress.best_weights()
        if self.ranks.rank:
            return
        history = History(
            ranks=self.ranks.count, rows=len(self.train), best_epoch=progress.best_epoch,
            best_validation_loss=progress.best_loss,
            seconds=sum(e.seconds for e in progress.finished),
            epochs=tuple(progress.finished), environment=_environment(self.ranks.device),
            first_step=progress.first_step,
            peak_memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        )  # fmt: skip
        with replaced(self._folder / HISTORY) as new:
            new.write_text(json.dumps(history.model_dump(mode="json"), indent=1))
        with replaced(self._folder / WEIGHTS) as new:
            torch.save(weights, new)
        self.reporter.finished(progress.best_epoch, progress.best_loss)


def schedule(optimizer: Optimizer, settings: TrainingSettings, steps_per_epoch: int) -> LRScheduler:
    """A warm-up, then `settings.schedule`, over all epochs."""
    steps = max(1, settings.epochs * steps_per_epoch - settings.warmup_steps)

    def factor(step: int) -> float:
        if step < settings.warmup_steps:
            return (step + 1) / settings.warmup_steps
        if settings.schedule == "constant":
            return 1.0
        done = min(1.0, (step - settings.warmup_steps) / steps)
        return 0.5 * (1 + math.cos(math.pi * done))

    return LambdaLR(optimizer, factor)


def _environment(device: torch.device) -> dict[str, str]:
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else "cpu",
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": str(torch.get_num_threads()),
    }
