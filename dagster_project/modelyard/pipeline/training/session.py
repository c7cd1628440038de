"""The parts of a training loop that are the same for every model; runs inside each rank."""

import json
import math
import os
import re
import resource
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.elastic.multiprocessing.errors import record
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from modelyard.documents import Signature
from modelyard.documents.files import replaced
from modelyard.pipeline.config.settings import TrainingSettings
from modelyard.pipeline.data.tensors import Arrays
from modelyard.pipeline.training.loader import Batch, Feed
from modelyard.pipeline.training.loop import Progress
from modelyard.pipeline.training.workdir import (
    CHECKPOINTS,
    HISTORY,
    JOB,
    LOG,
    WEIGHTS,
    Epoch,
    History,
    Job,
)

Settings = TypeVar("Settings", bound=TrainingSettings)

PATIENCE = timedelta(minutes=10)
"""how long a rank waits for the others before it gives up: they may be sending a large checkpoint
to a slow storage. The loss of one that is gone is noticed at once."""
KEPT: list[Any] = []
"""Process groups until the rank is gone: gloo's end, when Python counts its last reference, waits
for a thread that waits for Python (torch 2.13, ProcessGroupGloo::~ProcessGroupGloo)."""


def start(main: Callable[[], None]) -> None:
    """Run a rank's `main`; torchrun learns of its exception and stops the other ranks."""
    record(main)()


@contextmanager
def session(settings: type[Settings]) -> "Iterator[Run[Settings]]":
    """One rank's view of the training whose work folder is the first argument.

    Joins the process group (nccl on GPUs, else gloo), seeds torch, and reports to Dagster
    from rank 0 only.
    """
    folder = Path(sys.argv[1])
    job = Job.model_validate_json((folder / JOB).read_bytes())
    own = settings.model_validate(job.settings)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    device = _device(own.device)
    cuda = device.type == "cuda"
    dist.init_process_group(
        "nccl" if cuda else "gloo", timeout=PATIENCE, device_id=device if cuda else None
    )
    try:
        run = Run(folder, own, job.signature, device)
        KEPT.extend([dist.group.WORLD, run.control])
        signal.signal(signal.SIGTERM, run.stop)
        torch.manual_seed(own.seed)
        run.pipes = _pipes(run.rank)
        run.restarted()
        if gpus := _idle_gpus(own.device, device):
            run.warn(f"{gpus} GPUs are too few for {run.ranks} ranks, which train on the CPU")
        yield run
        if run.pipes:
            run.pipes.close()  # not after a failure: rank 0 may be started again
    except Stopped:
        sys.exit(os.EX_TEMPFAIL)
    finally:
        dist.destroy_process_group()


class Stopped(BaseException):
    """Told to stop, and ready to: the way out of the loop."""


def _device(wanted: str) -> torch.device:
    local = int(os.environ.get("LOCAL_RANK", "0"))
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    enough = torch.cuda.is_available() and ranks <= torch.cuda.device_count()
    if wanted == "cpu" or (wanted == "auto" and not enough):
        return torch.device("cpu")
    device = torch.device("cuda", local)
    torch.cuda.set_device(device)
    return device


def _idle_gpus(wanted: str, device: torch.device) -> int:
    """The GPUs that rank 0 sees and nobody uses, because there are fewer than ranks."""
    first = os.environ.get("RANK") == "0"
    return torch.cuda.device_count() if first and wanted == "auto" and device.type == "cpu" else 0


def _pipes(rank: int) -> Any:
    """Dagster's channel, on rank 0 alone: a second writer would tear the messages."""
    from dagster_pipes import DAGSTER_PIPES_CONTEXT_ENV_VAR, open_dagster_pipes

    if rank or DAGSTER_PIPES_CONTEXT_ENV_VAR not in os.environ:
        return None
    return open_dagster_pipes()


class Run(Generic[Settings]):
    """What a loop needs: data, this rank's batches, and the way back."""

    pipes: Any = None

    def __init__(
        self, folder: Path, settings: Settings, signature: Signature, device: torch.device
    ) -> None:
        self.folder, self.settings, self.signature = folder, settings, signature
        self.device = device
        self.rank, self.ranks = dist.get_rank(), dist.get_world_size()
        # What the ranks agree on travels over the CPU, beside a GPU's own traffic.
        cuda = device.type == "cuda"
        self.control = dist.new_group(backend="gloo", timeout=PATIENCE) if cuda else None
        self.train = Arrays.mapped(folder / "train")
        self.validation = Arrays.mapped(folder / "validation")
        self.train_feed = Feed(self.train, device)
        self.validation_feed = Feed(self.validation, device)
        self.checkpoints = folder / CHECKPOINTS
        self.stopping = False

    # What the loop is made of.

    def distribute(self, network: nn.Module) -> nn.Module:
        """The network on this rank's device, with its gradients summed over all ranks.

        ddp: a copy on each rank. fsdp2: parameters, gradients and the optimizer's state are
        shared out; a network of several large blocks saves more by calling `fully_shard` on
        each of them first.
        """
        network.to(self.device)
        if self.settings.strategy == "fsdp2":
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.fsdp import fully_shard

            mesh = init_device_mesh(self.device.type, (self.ranks,))
            fully_shard(network, mesh=mesh)
            return network
        devices = [self.device] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(network, device_ids=devices)

    def schedule(self, optimizer: Optimizer) -> LRScheduler:
        """`settings.schedule` of the learning rate, step by step."""
        settings = self.settings
        steps = max(1, settings.epochs * self.steps_per_epoch - settings.warmup_steps)

        def factor(step: int) -> float:
            if step < settings.warmup_steps:
                return (step + 1) / settings.warmup_steps
            if settings.schedule == "constant":
                return 1.0
            done = min(1.0, (step - settings.warmup_steps) / steps)
            return 0.5 * (1 + math.cos(math.pi * done))

        return LambdaLR(optimizer, factor)

    def progress(self, model: nn.Module, optimizer: Optimizer, schedule: LRScheduler) -> Progress:
        """Epochs and steps, from the last checkpoint on if there is one."""
        return Progress(self, model, optimizer, schedule)

    def precision(self) -> torch.autocast:
        """Within, matrix products are of `settings.precision`."""
        wanted = self.settings.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=wanted)

    def validation_batches(self) -> Iterator[Batch]:
        """This rank's part of the validation rows, in order; each rank has as many batches."""
        feed = self.validation_feed
        for rows in feed.in_order(self.settings.batch_rows, self.rank, self.ranks):
            yield feed.take(rows)

    def finish(self, progress: Progress) -> None:
        """Hand back the best weights and how the training went; rank 0 writes."""
        weights = progress.best_weights()
        if self.rank:
            return
        best = progress.best_epoch, progress.best_loss
        history = History(
            ranks=self.ranks, rows=len(self.train), best_epoch=best[0],
            best_validation_loss=best[1], seconds=sum(e.seconds for e in progress.finished),
            epochs=tuple(progress.finished), environment=self._environment(),
            first_step=progress.first_step,
            peak_memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        )  # fmt: skip
        with replaced(self.folder / HISTORY) as new:
            new.write_text(json.dumps(history.model_dump(mode="json"), indent=1))
        with replaced(self.folder / WEIGHTS) as new:
            torch.save(weights, new)
        self._log(f"best epoch {best[0]}: validation loss {best[1]:.4f}")

    def _environment(self) -> dict[str, str]:
        cuda = self.device.type == "cuda"
        return {
            "device": torch.cuda.get_device_name(self.device) if cuda else "cpu",
            "cpu": torch.backends.cpu.get_cpu_capability(),
            "threads": str(torch.get_num_threads()),
        }

    # Rows.

    def global_rows(self, ranks: int) -> int:
        """Of a step, over all of `ranks`."""
        return max(1, min(self.settings.batch_rows, len(self.train)) // ranks) * ranks

    @property
    def steps_per_epoch(self) -> int:
        return max(1, len(self.train) // self.global_rows(self.ranks))

    def shares(self, epoch: int) -> Iterator[Tensor]:
        """This rank's share [B] of each global batch, shuffled anew each epoch.

        All ranks shuffle alike and take shares of equal size, so none waits for another;
        fewer rows than a last whole batch are left for another epoch's order.
        """
        rows = self.global_rows(self.ranks)
        share = rows // self.ranks
        for batch in self.train_feed.shuffled(rows, self.settings.seed * 1_000_003 + epoch):
            yield batch[self.rank * share :][:share]

    # The ranks together.

    def mean_over_validation(self, sums: Sequence[Tensor]) -> float:
        """Sums over this rank's validation rows → the mean over all, the same on each rank."""
        total = torch.stack(list(sums)).sum() if sums else torch.zeros((), device=self.device)
        dist.all_reduce(total)
        value = total.item() / len(self.validation)
        if not math.isfinite(value):
            raise self.not_finite(f"validation loss is {value}")
        return value

    def mean_over_ranks(self, value: float) -> float:
        (total,) = self.sums_over_ranks([value])
        if not math.isfinite(total):
            raise self.not_finite(f"training loss is {total}")
        return total / self.ranks

    def sums_over_ranks(self, values: Sequence[float]) -> list[float]:
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total, group=self.control)
        return total.tolist()

    def check_finite(self, network: nn.Module, epoch: int, step: int) -> None:
        """No rank writes a checkpoint of weights that are of no use."""
        local = (getattr(p, "to_local", lambda p=p: p)() for p in network.parameters())
        bad = sum(not part.isfinite().all().item() for part in local)
        if self.sums_over_ranks([bad])[0]:
            raise self.not_finite("weights are no longer finite", epoch, step)

    def not_finite(self, said: str, epoch: int = 0, step: int = 0) -> FloatingPointError:
        where = f" in epoch {epoch}, step {step}" if epoch else ""
        return FloatingPointError(f"the {said}{where}; try a lower learning_rate")

    # What is said of it: rank 0 in the terminal and to Dagster.

    def report(self, done: Epoch) -> None:
        """An epoch that has ended."""
        if self.rank:
            return
        self._tell({"epoch": done.model_dump()})
        measured = "".join(f"  {name} {value:.4f}" for name, value in done.metrics.items())
        self._log(
            f"epoch {done.epoch:3d}/{self.settings.epochs}  loss {done.train_loss:.4f}  "
            f"validation {done.validation_loss:.4f}{measured}  "
            f"{done.figures()['rows_per_second']:10,.0f} rows/s"
        )

    def begun(self) -> None:
        """The first step of this process is done."""
        self._tell({"begun": {"ranks": self.ranks, "device": self.device.type}})

    def show(self, epoch: int, step: int, loss: float) -> None:
        """How far a long epoch is."""
        share = step / self.steps_per_epoch
        self._log(f"epoch {epoch:3d}/{self.settings.epochs}  {share:4.0%}  loss {loss:.4f}")

    def restarted(self) -> None:
        """Which rank torchrun lost, after which it has started all of them again."""
        count = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
        if self.rank or not count:
            return
        path = self.folder / LOG  # not there under a torchrun of a person's own
        log = path.read_text(errors="replace") if path.exists() else ""
        lost = re.findall(r"failed \(exitcode: (-?\d+)\) local_rank: (\d+)", log)
        code, rank = (int(lost[-1][0]), lost[-1][1]) if lost else (0, "")
        ended = f"was killed by {signal.Signals(-code).name}" if code < 0 else "ended"
        who = f"rank {rank}" if rank else "a rank"
        most = os.environ.get("TORCHELASTIC_MAX_RESTARTS", "")
        self._log(f"warning: {who} {ended}; all ranks are started again: restart {count} of {most}")

    def resumed(self, epoch: int, step: int, ranks: int) -> None:
        by = f" by {ranks} ranks" if ranks != self.ranks else ""
        if self.rank == 0:
            self._log(f"going on from the checkpoint{by} in epoch {epoch}, after step {step}")

    def warn(self, text: str) -> None:
        self._log(f"warning: {text}")

    def _tell(self, message: dict[str, Any]) -> None:
        """From rank 0, whose messages `live` hears."""
        if self.pipes:
            with suppress(OSError):  # a full disk must not end the training
                self.pipes.report_custom_message(message)

    def _log(self, text: str) -> None:
        with suppress(OSError):  # nobody listens any more; a checkpoint is still to be written
            print(text, flush=True)
        if self.pipes:
            with suppress(OSError):  # a full disk must not end the training
                self.pipes.log.info(text)

    # Being told to stop.

    def stop(self, *_: object) -> None:
        """SIGTERM: go on to the next pulse, where all ranks learn of it."""
        self.stopping = True

    def leave(self, epoch: int, step: int) -> None:
        """The checkpoint is written: exit with the code that means "start me again"."""
        if self.rank == 0:
            self._log(f"told to stop: checkpoint in epoch {epoch}, after step {step}")
        raise Stopped
