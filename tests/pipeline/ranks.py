"""Trainings of seconds with real ranks under torchrun, and faults planted in them."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import psutil

from modelyard.documents import Signature
from modelyard.documents.signature import Category, Number
from modelyard.pipeline.config.settings import TrainingSettings
from modelyard.pipeline.data.synthetic import draw
from modelyard.pipeline.launchers.local import TorchLauncher
from modelyard.pipeline.training.workdir import History

SIGNATURE = Signature(
    task="binary",
    target="y",
    classes=("no", "yes"),
    inputs=(Number(name="a", nullable=True), Number(name="b"), Category(name="c", values=("x",))),
)
MODULE = '''
import os, signal, resource
from pathlib import Path
import torch
from modelyard.pipeline.training import loop
from modelyard.pipeline.training.session import session
from modelyard.pipeline.config.settings import TrainingSettings

FOLDER = Path({folder!r})
FAULTS = {{}}  # by epoch and step
for each in filter(None, {fault!r}.split(", ")):
    name, _, place = each.partition(" at ")
    epoch, step = map(int, (place or "2.3").split("."))
    FAULTS[epoch, step] = name
    if name == "full disk":
        FAULTS[epoch, step + 2] = "disk with room again"
loop.PULSE = 0  # the ranks agree after each step

def fault(name, run, network):
    """Once, in mid-epoch."""
    once = FOLDER / f"{{name}}.{{run.ranks.rank}}"
    if once.exists() and not name.endswith("always"):
        return
    once.touch()
    if run.ranks.rank == 1:
        if name == "raises":
            raise ValueError("rank 1 has seen a ghost\\nin the data")
        if name.startswith("killed"):
            os.kill(os.getpid(), signal.SIGKILL)
        if name == "told to stop":
            os.kill(os.getpid(), signal.SIGTERM)
    if name == "stopped" and run.ranks.rank == 0:
        os.kill(os.getpgrp(), signal.SIGTERM)  # torchrun's
    if name == "nan":
        with torch.no_grad():
            next(network.parameters()).fill_(float("nan"))
    if name == "full disk":
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, resource.RLIM_INFINITY))
    if name == "disk with room again":
        resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))

def main():
    with session(TrainingSettings) as run:
        assert (run.reporter.pipes is not None) == (run.ranks.rank == 0)
        network = torch.nn.Sequential(
            torch.nn.Linear(2, 8), torch.nn.ReLU(), torch.nn.Dropout(0.2), torch.nn.Linear(8, 1))
        model = run.distribute(network)
        optimizer = torch.optim.AdamW(model.parameters(), lr=run.settings.learning_rate)
        schedule = run.schedule(optimizer)
        progress = run.progress(model, optimizer, schedule)

        def loss(model, numbers, target):
            return torch.nn.functional.binary_cross_entropy_with_logits(
                model(numbers.nan_to_num())[:, 0], target)

        for epoch in progress.epochs():
            model.train()
            for step in progress.steps(epoch):
                optimizer.zero_grad()
                for numbers, _, target in step.batches():
                    with run.precision():
                        value = loss(model, numbers, target)
                    step.backward(value)
                optimizer.step()
                schedule.step()
                if name := FAULTS.get((epoch, progress.step + 1)):
                    fault(name, run, network)
            network.eval()
            with torch.no_grad():
                sums = [loss(network, n, t) * len(t) for n, _, t in run.validation_batches()]
            progress.validated(run.mean_over_validation(sums))
        run.finish(progress)

if __name__ == "__main__":
    main()
'''


def small(**changes: Any) -> TrainingSettings:
    """Three epochs of ten steps, a checkpoint after each of them."""
    given = {"ranks": 2, "epochs": 3, "batch_rows": 100, "learning_rate": 0.01}
    return TrainingSettings.model_validate({**given, "checkpoint_seconds": 0, **changes})


def train(
    folder: Path,
    fault: str = "",
    settings: TrainingSettings | None = None,
    rows: int = 1001,
    launcher: TorchLauncher | None = None,
) -> History:
    """Train in `folder/work` by a module that has a fault planted, inside a Dagster run.

    What was there of the same training goes on. `fault`: names, as "killed, nan at 3.1"; in
    epoch 2, step 3, unless they say another place.
    """
    module = folder / "planted.py"
    module.write_text(MODULE.format(fault=fault, folder=str(folder)))
    for seed, name in enumerate(("train", "validation")):
        if not (folder / f"{name}.parquet").exists():
            draw(SIGNATURE, rows, seed).write_parquet(folder / f"{name}.parquet")
    histories = []

    @dg.asset
    def weights(context: dg.AssetExecutionContext, launcher: TorchLauncher) -> dg.MaterializeResult:
        histories.append(
            launcher.run(
                context, "planted", folder / "work", settings or small(), SIGNATURE,
                folder / "train.parquet", folder / "validation.parquet",
            )
        )  # fmt: skip
        return dg.MaterializeResult()

    kept = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = f"{folder}:{kept or ''}"
    try:
        dg.materialize([weights], resources={"launcher": launcher or TorchLauncher(threads=1)})
    except Exception as error:
        while error.__cause__ is not None:
            error = error.__cause__
        raise error from None
    finally:
        os.environ["PYTHONPATH"] = kept or ""
    return histories[0]


@dataclass(frozen=True)
class Trained:
    """A training of three epochs by two ranks that nothing befell."""

    history: History
    folder: Path
    printed: str


def running(folder: Path) -> list[str]:
    """Command lines of torchrun and its ranks that are still there, by what their path holds."""
    found = psutil.process_iter(["cmdline", "environ"])
    return [
        " ".join(p.info["cmdline"] or [])
        for p in found
        if str(folder) in (p.info["environ"] or {}).get("PYTHONPATH", "").split(":")
    ]


def gone(folder: Path) -> bool:
    """Whether all of a training's processes end within a minute."""
    until = time.monotonic() + 60
    while running(folder) and time.monotonic() < until:
        time.sleep(0.1)
    return not running(folder)
