"""What is said of a training: by rank 0, in the terminal and to Dagster."""

import os
from contextlib import suppress
from typing import Any

from modelyard.pipeline.training.outcome import Outcome
from modelyard.pipeline.training.workdir import QUIET, Epoch


class Reporter:
    """Tells of a training, from one rank; most of it is told by rank 0 alone."""

    def __init__(self, rank: int, ranks: int, epochs: int) -> None:
        self._rank, self._ranks, self._epochs = rank, ranks, epochs
        self.pipes = _pipes(rank)
        self._quiet = QUIET in os.environ

    def close(self) -> None:
        if self.pipes:
            self.pipes.close()

    def ended(self, done: Epoch) -> None:
        """An epoch."""
        if self._rank:
            return
        self._tell({"epoch": done.model_dump()})
        measured = "".join(f"  {name} {value:.4f}" for name, value in done.metrics.items())
        self._show(
            f"epoch {done.epoch:3d}/{self._epochs}  loss {done.train_loss:.4f}  "
            f"validation {done.validation_loss:.4f}{measured}  "
            f"{done.figures()['rows_per_second']:10,.0f} rows/s"
        )

    def begun(self, device: str) -> None:
        """The first step of this process is done."""
        self._tell({"begun": {"ranks": self._ranks, "device": device}})

    def passed(self, epoch: int, share: float, loss: float) -> None:
        """How far a long epoch is; called on rank 0."""
        self._show(f"epoch {epoch:3d}/{self._epochs}  {share:4.0%}  loss {loss:.4f}")

    def restarted(self, lost: Outcome | None) -> None:
        """Torchrun has started all ranks again, after it has lost one of them."""
        count = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
        if self._rank or not count:
            return
        who = f"rank {lost.rank} {lost.ended}" if lost else "a rank ended"
        most = os.environ.get("TORCHELASTIC_MAX_RESTARTS", "")
        self._log(f"warning: {who}; all ranks are started again: restart {count} of {most}")

    def resumed(self, epoch: int, step: int, ranks: int) -> None:
        world = f" by {ranks} ranks" if ranks != self._ranks else ""
        if self._rank == 0:
            self._log(f"going on from the checkpoint{world} in epoch {epoch}, after step {step}")

    def stopped(self, epoch: int, step: int) -> None:
        if self._rank == 0:
            self._log(f"told to stop: checkpoint in epoch {epoch}, after step {step}")

    def finished(self, epoch: int, loss: float) -> None:
        """Called on rank 0."""
        self._show(f"best epoch {epoch}: validation loss {loss:.4f}")

    def warn(self, text: str) -> None:
        self._log(f"warning: {text}")

    def _show(self, curve: str) -> None:
        if not self._quiet:
            return self._log(curve)
        with suppress(OSError):
            print(flush=True)  # wakes the reader, who finds the figures in the reports

    def _tell(self, message: dict[str, Any]) -> None:
        """To whom reads rank 0's messages (`workdir.Messages`)."""
        if self.pipes:
            with suppress(OSError):  # a full disk must not end the training
                self.pipes.report_custom_message(message)

    def _log(self, text: str) -> None:
        with suppress(OSError):  # nobody listens any more; a checkpoint is still to be written
            print(text, flush=True)
        if self.pipes:
            with suppress(OSError):  # a full disk must not end the training
                self.pipes.log.info(text)


def _pipes(rank: int) -> Any:
    """Dagster's channel, on rank 0 alone: a second writer would tear the messages."""
    from dagster_pipes import DAGSTER_PIPES_CONTEXT_ENV_VAR, open_dagster_pipes

    if rank or DAGSTER_PIPES_CONTEXT_ENV_VAR not in os.environ:
        return None
    return open_dagster_pipes()
