"""Two real ranks under torchrun, and what is said when one of them dies."""

import os
from pathlib import Path

import dagster as dg
import numpy as np
import psutil
import pytest

from modelyard.documents import Signature, UserError
from modelyard.documents.signature import Number
from modelyard.pipeline.job import HISTORY, WEIGHTS, History
from modelyard.pipeline.launcher import TorchLauncher, failure
from modelyard.pipeline.settings import TrainingSettings
from modelyard.pipeline.synthetic import draw

SIGNATURE = Signature(
    task="binary", target="y", classes=("no", "yes"), inputs=(Number(name="a", nullable=True),)
)
SETTINGS = TrainingSettings(ranks=2, epochs=3, batch_rows=100, learning_rate=0.1)

MODULE = """
import os, signal
import torch
from torch.nn.parallel import DistributedDataParallel
from modelyard.pipeline import training
from modelyard.pipeline.settings import TrainingSettings

FAULT = {fault!r}

def main():
    with training.session(TrainingSettings) as run:
        assert (run.pipes is not None) == (run.rank == 0)
        network = torch.nn.Linear(1, 1)
        model = DistributedDataParallel(network)
        optimizer = torch.optim.SGD(model.parameters(), lr=run.settings.learning_rate)
        for epoch in range(1, run.settings.epochs + 1):
            if run.rank == 1 and epoch == 2:
                if FAULT == "raises":
                    raise ValueError("rank 1 has seen a ghost\\nin the data")
                if FAULT == "killed":
                    os.kill(os.getpid(), signal.SIGKILL)
            for numbers, _, target in run.batches(epoch):
                optimizer.zero_grad()
                output = model(numbers.nan_to_num())[:, 0]
                loss = torch.nn.functional.binary_cross_entropy_with_logits(output, target)
                loss.backward()
                optimizer.step()
            sums = [
                torch.nn.functional.binary_cross_entropy_with_logits(
                    network(n.nan_to_num())[:, 0], t, reduction="sum").detach()
                for n, _, t in run.validation_batches()
            ]
            run.report(epoch, run.mean_over_ranks(loss.item()), run.mean_over_validation(sums))
        run.finish(network.state_dict(), epoch, 0.5)

if __name__ == "__main__":
    training.start(main)
"""


def train(
    folder: Path, monkeypatch: pytest.MonkeyPatch, fault: str = "", rows: int = 1001
) -> History:
    """Train in `folder` by a module that has a fault planted, inside a Dagster run."""
    (folder / "planted.py").write_text(MODULE.format(fault=fault))
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{os.environ.get('PYTHONPATH', '')}")
    for seed, name in enumerate(("train", "validation")):
        draw(SIGNATURE, rows, seed).write_parquet(folder / f"{name}.parquet")
    histories = []

    @dg.asset
    def weights(context: dg.AssetExecutionContext, launcher: TorchLauncher) -> dg.MaterializeResult:
        histories.append(
            launcher.run(
                context, "planted", folder / "work", SETTINGS, SIGNATURE,
                folder / "train.parquet", folder / "validation.parquet",
            )
        )  # fmt: skip
        return dg.MaterializeResult()

    try:
        dg.materialize([weights], resources={"launcher": TorchLauncher(threads=1)})
    except Exception as error:
        while error.__cause__ is not None:
            error = error.__cause__
        raise error from None
    return histories[0]


def running(folder: Path) -> list[str]:
    """Command lines of ranks that are still there."""
    lines = [" ".join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"])]
    return [line for line in lines if str(folder / "work") in line]


def test_two_ranks_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    history = train(tmp_path, monkeypatch)
    assert (history.ranks, history.rows, len(history.epochs)) == (2, 1001, 3)
    printed = capfd.readouterr().out
    assert [printed.count(f"epoch   {n}/3") for n in (1, 2, 3)] == [1, 1, 1]
    assert (tmp_path / "work" / WEIGHTS).exists()
    # The ranks share one copy of the data; nothing wrote through to it.
    assert np.load(tmp_path / "work" / "train" / "numbers.npy").shape == (1001, 1)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("raises", "training: rank 1 failed with ValueError: rank 1 has seen a ghost; its trace"),
        ("killed", "training: rank 1 was killed by SIGKILL"),
    ],
)
def test_a_dying_rank_is_named_and_takes_the_others_along(
    fault: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        train(tmp_path, monkeypatch, fault)
    assert "\n" not in str(caught.value)
    work = tmp_path / "work"
    assert not (work / WEIGHTS).exists() and not (work / HISTORY).exists()
    assert not running(tmp_path)


def test_a_rank_that_exits_without_a_word(tmp_path: Path) -> None:
    log = (
        "Root Cause (first observed failure):\n[0]:\n  time      : 2026-11-21_02:00:00\n"
        "  rank      : 1 (local_rank: 1)\n  exitcode  : 7 (pid: 10)\n  error_file: <N/A>\n"
    )
    assert "rank 1 exited with 7" in failure(log, tmp_path / "log.txt")


def test_a_log_without_ranks_is_shown(tmp_path: Path) -> None:
    said = failure("usage: torchrun\nno such option", tmp_path / "log.txt")
    assert "before its ranks ran" in said and "no such option" in said
