"""How far a training is: steps and epochs, best weights, checkpoints, when to stop."""

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modelyard.pipeline.config.settings import TrainingSettings
from modelyard.pipeline.training import checkpoint
from modelyard.pipeline.training.loader import Batch
from modelyard.pipeline.training.ranks import Ranks, Stopped, not_finite
from modelyard.pipeline.training.reporting import Reporter
from modelyard.pipeline.training.rows import Rows
from modelyard.pipeline.training.workdir import Epoch

PULSE = 0.5
"""seconds, about, between two agreements of the ranks on going on"""
SHOWN = 30
"""seconds between two lines within a long epoch"""


class Step:
    """One update of the weights: this rank's rows [B] of a global batch."""

    def __init__(
        self, rows: Rows, share: Tensor, parts: int, model: nn.Module, total: Tensor
    ) -> None:
        self._rows, self._share, self._parts = rows, share, parts
        self._model, self._total = model, total
        self._weight = 1.0

    def batches(self) -> Iterator[Batch]:
        """The rows in `settings.accumulate` parts; ranks exchange gradients after the last."""
        parts = self._share.tensor_split(self._parts)
        for number, part in enumerate(parts, start=1):
            _exchange_gradients(self._model, number == len(parts))
            self._weight = len(part) / len(self._share)
            yield self._rows.take(part)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a part's mean `loss`, by the part's share of the rows."""
        share = loss if self._weight == 1 else loss * self._weight
        share.backward()
        self._total += share.detach()


def _exchange_gradients(model: Any, now: bool) -> None:
    if isinstance(model, nn.parallel.DistributedDataParallel):
        model.require_backward_grad_sync = now
    else:
        model.set_requires_gradient_sync(now)  # FSDP2


class Progress:
    """Goes through epochs and steps; begins where the last checkpoint ended.

    A checkpoint holds weights, optimizer, schedule, random state, best weights and all that
    is counted here. It is written every `settings.checkpoint_seconds`, and on SIGTERM, after
    which the rank exits with EX_TEMPFAIL: to be started again.
    """

    def __init__(
        self,
        rows: Rows,
        ranks: Ranks,
        reporter: Reporter,
        settings: TrainingSettings,
        checkpoints: Path,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
    ) -> None:
        self._rows, self._ranks, self._reporter = rows, ranks, reporter
        self._settings, self._checkpoints = settings, checkpoints
        self._model, self._optimizer, self._schedule = model, optimizer, schedule
        self._network = getattr(model, "module", model)  # DDP's wrapper, or FSDP2 in place
        self.epoch, self.step = 1, 0
        """the epoch under way, and how many of its steps are done"""
        self.best_epoch, self.best_loss = 0, float("inf")
        self.best: dict[str, Tensor] = {}
        """the weights after `best_epoch`"""
        self.finished: list[Epoch] = []
        self.first_step = 0.0
        """when it was done, in seconds since the epoch; of this process"""
        self._total = torch.zeros((), dtype=torch.float64, device=ranks.device)
        self._seconds = 0.0  # of this epoch before the checkpoint that it began from
        self._restore()
        self._next, self._steps = self.step + 1, 0
        self._began = self._saved = self._shown = self._pulsed = time.monotonic()

    def epochs(self) -> Iterator[int]:
        """Epoch by epoch, 1 first, until there are enough or none has been better for long."""
        settings = self._settings
        while self.epoch <= settings.epochs:
            if self.best_epoch and self.epoch - 1 - self.best_epoch >= settings.patience:
                return
            yield self.epoch

    def steps(self, epoch: int) -> Iterator[Step]:
        """The epoch's steps; those before the checkpoint are passed over."""
        for number, share in enumerate(self._rows.shares(epoch), start=1):
            if number <= self.step:
                continue
            yield Step(self._rows, share, self._settings.accumulate, self._model, self._total)
            self.step = number
            self._steps += 1
            if not self.first_step:
                self.first_step = time.time()
                self._reporter.begun(self._ranks.device.type)
            if number >= self._next:
                self._pulse()

    def validated(self, loss: float, **metrics: float) -> None:
        """The end of an epoch, by its mean validation loss.

        Args:
            metrics: what else was measured, the same on all ranks; for the curves.
        """
        now = time.monotonic()
        done = Epoch(
            epoch=self.epoch,
            train_loss=self._ranks.mean(self._total.item() / self.step),
            validation_loss=loss,
            metrics=metrics,
            seconds=self._seconds + now - self._began,
            learning_rate=float(self._schedule.get_last_lr()[0]),
            rows=len(self._rows.train),
            ended=time.time(),
        )
        self.finished.append(done)
        self._reporter.ended(done)
        if loss < self.best_loss:
            self.best_epoch, self.best_loss = self.epoch, loss
            self.best = {k: v.detach().clone() for k, v in self._network.state_dict().items()}
        self.epoch, self.step = self.epoch + 1, 0
        self._began, self._seconds = now, 0.0
        self._total.zero_()
        self._pulse()

    def best_weights(self) -> dict[str, Tensor]:
        """Whole and on the CPU; called by all ranks, which hold parts of them under FSDP2."""
        return {name: _whole(value).cpu() for name, value in self.best.items()}

    def _pulse(self) -> None:
        """Agree on what is next: a checkpoint when it is time, the exit when one was told to.

        The ranks meet here, not in each step, because meeting takes time. Rank 0 keeps the
        clock and says in how many steps the next pulse comes.
        """
        ranks, now = self._ranks, time.monotonic()
        leads = ranks.rank == 0
        pace = PULSE * self._steps / max(now - self._pulsed, 1e-6)
        due = now - self._saved >= self._settings.checkpoint_seconds
        stop, save, ahead, total = ranks.sums(
            [ranks.stopping, leads and due, leads * max(1, int(pace)), self._total.item()]
        )
        if not math.isfinite(total):
            raise not_finite(f"training loss is {total}", self.epoch, self.step)
        self._next, self._steps, self._pulsed = self.step + int(ahead), 0, now
        if self.step and leads and now - self._shown >= SHOWN:
            self._shown = now
            share = self.step / self._rows.steps_per_epoch
            self._reporter.passed(self.epoch, share, total / ranks.count / self.step)
        if stop or save:
            self._save(total / ranks.count)
        if stop:
            self._reporter.stopped(self.epoch, self.step)
            raise Stopped

    def _save(self, total: float) -> None:
        ranks, now = self._ranks, time.monotonic()
        ranks.check_finite(self._network, self.epoch, self.step)
        tensors, values = self._state()
        progress = {
            "epoch": self.epoch, "step": self.step, "ranks": ranks.count, "total": total,
            "device": ranks.device.type,
            "seconds": self._seconds + now - self._began,
            "best_epoch": self.best_epoch, "best_loss": self.best_loss,
            "finished": [epoch.model_dump() for epoch in self.finished],
            "schedule": self._schedule.state_dict(), "optimizer": values,
        }  # fmt: skip
        name = f"{self.epoch:05d}-{self.step:09d}"
        tensors["random"] = {str(ranks.rank): _random_state(ranks.device)}
        problem = checkpoint.write(self._checkpoints, name, tensors, progress, ranks.control)
        if problem and ranks.rank == 0:
            self._reporter.warn(
                f"no checkpoint in epoch {self.epoch}, after step {self.step}: {problem}"
            )
        self._saved = time.monotonic()

    def _state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """What a checkpoint holds as tensors, and the optimizer's plain values."""
        from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

        optimizer = get_optimizer_state_dict(self._model, self._optimizer, options=_flat())
        moments = {k: v for k, v in optimizer.items() if isinstance(v, Tensor)}
        values = {k: v for k, v in optimizer.items() if not isinstance(v, Tensor)}
        state = {"model": self._network.state_dict(), "optimizer": moments, "best": self.best}
        return {name: part for name, part in state.items() if part}, values

    def _restore(self) -> None:
        ranks = self._ranks
        found = checkpoint.newest(self._checkpoints, ranks.control)
        if found is None:
            return
        from torch.distributed.checkpoint.state_dict import set_optimizer_state_dict

        path, progress = found
        if progress["best_epoch"]:
            self.best = {k: v.detach().clone() for k, v in self._network.state_dict().items()}
        tensors, values = self._state()
        # Another device draws other numbers, and keeps its state in another shape.
        same = (progress["ranks"], progress.get("device", "cpu")) == (
            ranks.count,
            ranks.device.type,
        )
        if same:
            tensors["random"] = {str(ranks.rank): _random_state(ranks.device)}
        checkpoint.read(path, tensors, ranks.control)
        for name, value in values.items():
            values[name] = type(value)(progress["optimizer"][name]) if value is not None else None
        set_optimizer_state_dict(
            self._model, self._optimizer, {**tensors["optimizer"], **values}, options=_flat()
        )
        self._resume(progress)
        if same:
            _set_random_state(ranks.device, tensors["random"][str(ranks.rank)])

    def _resume(self, progress: dict[str, Any]) -> None:
        rows = self._rows
        # With another number of ranks a step may hold another number of rows.
        done = progress["step"] * rows.per_step(progress["ranks"])
        step = min(done // rows.per_step(self._ranks.count), rows.steps_per_epoch)
        self.epoch, self.step = progress["epoch"], step
        self.best_epoch, self.best_loss = progress["best_epoch"], progress["best_loss"]
        self.finished = [Epoch.model_validate(epoch) for epoch in progress["finished"]]
        self._seconds = progress["seconds"]
        self._total += progress["total"]
        self._schedule.load_state_dict(progress["schedule"])
        self._reporter.resumed(self.epoch, self.step, progress["ranks"])


def _whole(value: Any) -> Tensor:
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def _flat() -> Any:
    from torch.distributed.checkpoint.state_dict import StateDictOptions

    return StateDictOptions(flatten_optimizer_state_dict=True)


def _random_state(device: torch.device) -> Tensor:
    """Of torch on the CPU and, behind it, on the device."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return torch.cat(states)


def _set_random_state(device: torch.device, state: Tensor) -> None:
    size = len(torch.get_rng_state())
    torch.set_rng_state(state[:size])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state[size:], device)
