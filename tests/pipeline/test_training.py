"""Trainings that are killed, stopped, moved to other ranks, starved of disk; with real ranks."""

from pathlib import Path

import numpy as np
import pytest
import torch
from pipeline.ranks import SIGNATURE, running, small, train

from modelyard.documents import UserError
from modelyard.pipeline.arrays import Arrays, write_arrays
from modelyard.pipeline.checkpoint import NEW, PROGRESS, complete
from modelyard.pipeline.feeding import Feed
from modelyard.pipeline.job import CHECKPOINTS, WEIGHTS, History
from modelyard.pipeline.launcher import check, prepare
from modelyard.pipeline.settings import TrainingSettings
from modelyard.pipeline.synthetic import draw

TOLERANCE = 0.01
"""of the validation loss, when a training goes on with another number of ranks"""


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[History, Path]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    return train(folder), folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "work" / WEIGHTS, weights_only=True)


def losses(history: History) -> list[float]:
    return [epoch.validation_loss for epoch in history.epochs]


def assert_same(folder: Path, history: History, uninterrupted: tuple[History, Path]) -> None:
    """Bit for bit, weights and losses."""
    expected, other = uninterrupted
    assert losses(history) == losses(expected)
    assert all(torch.equal(v, weights(other)[k]) for k, v in weights(folder).items())


def checkpoints(folder: Path) -> list[str]:
    return [path.name for path in complete(folder / "work" / CHECKPOINTS)]


@pytest.mark.parametrize("fault", ["killed", "told to stop"])
def test_a_rank_that_dies_in_mid_epoch_costs_nothing(
    fault: str,
    uninterrupted: tuple[History, Path],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """kill -9 of one of two ranks, or its SIGTERM alone: torchrun starts both again."""
    history = train(tmp_path, fault)
    assert (tmp_path / f"{fault}.1").exists()
    printed = capfd.readouterr().out
    step = 2 if fault == "killed" else 3
    assert f"going on from the checkpoint after epoch 2, step {step}" in printed
    assert_same(tmp_path, history, uninterrupted)


@pytest.mark.parametrize(("before", "after"), [(2, 2), (2, 1), (1, 2)])
def test_a_training_that_was_stopped_goes_on(
    before: int, after: int, uninterrupted: tuple[History, Path], tmp_path: Path
) -> None:
    """SIGTERM of torchrun in mid-epoch; then the same again, or with other ranks."""
    with pytest.raises(UserError, match="stopped by SIGTERM; run it again to go on"):
        train(tmp_path, "stopped", small(ranks=before))
    (stopped,) = checkpoints(tmp_path)
    assert "00002-000000003" <= stopped < "00003-000000010" and not running(tmp_path)
    half = tmp_path / "work" / CHECKPOINTS / NEW  # as a writer leaves it that was killed
    half.mkdir()
    (half / PROGRESS).write_text("{")
    history = train(tmp_path, "stopped", small(ranks=after))
    assert history.ranks == after
    if before == after == 2:
        assert_same(tmp_path, history, uninterrupted)
    else:
        expected = losses(uninterrupted[0])
        assert losses(history) == pytest.approx(expected, abs=TOLERANCE)


def test_only_the_same_training_goes_on(tmp_path: Path) -> None:
    rows = draw(SIGNATURE, 100)
    rows.write_parquet(tmp_path / "rows.parquet")
    work = tmp_path / "work"

    def goes_on(settings: TrainingSettings) -> bool:
        (work / CHECKPOINTS / "00001-000000001").mkdir(parents=True, exist_ok=True)
        data = tmp_path / "rows.parquet"
        prepare("none.train", work, settings, SIGNATURE, data, data)
        return (work / CHECKPOINTS).exists()

    assert not goes_on(small())
    assert goes_on(small()) and goes_on(small(ranks=1))
    assert not goes_on(small(learning_rate=0.02))
    rows[:50].write_parquet(tmp_path / "rows.parquet")
    assert not goes_on(small(learning_rate=0.02))
    (work / WEIGHTS).touch()  # it has ended
    assert not goes_on(small(learning_rate=0.02))


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="FloatingPointError: the .* try a lower learning_rate"):
        train(tmp_path, "nan")
    assert checkpoints(tmp_path) == ["00002-000000002"]
    assert not (tmp_path / "work" / WEIGHTS).exists()


def test_a_full_disk_loses_nothing(
    uninterrupted: tuple[History, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    history = train(tmp_path, "full disk")
    assert "warning: no checkpoint after epoch 2, step 3: " in capfd.readouterr().out
    assert_same(tmp_path, history, uninterrupted)
    (name,) = checkpoints(tmp_path)
    assert name == "00004-000000000"


@pytest.mark.parametrize(
    "changes",
    [{"strategy": "fsdp2"}, {"accumulate": 3}],
    ids=lambda changes: str(next(iter(changes))),
)
def test_other_ways_to_the_same_loss(
    changes: dict[str, object], uninterrupted: tuple[History, Path], tmp_path: Path
) -> None:
    """Sharded, and killed on the way; or in parts, whose dropout differs."""
    history = train(tmp_path, "killed" if "strategy" in changes else "", small(**changes))
    assert losses(history) == pytest.approx(losses(uninterrupted[0]), abs=TOLERANCE)
    assert {k: v.shape for k, v in weights(tmp_path).items()} == {
        k: v.shape for k, v in weights(uninterrupted[1]).items()
    }


def test_schedule_and_precision(tmp_path: Path) -> None:
    settings = small(schedule="cosine", warmup_steps=5, precision="bfloat16")
    history = train(tmp_path, "", settings)
    rates = [epoch.learning_rate for epoch in history.epochs]
    assert 0.01 > rates[0] > rates[1] > rates[2] == pytest.approx(0, abs=1e-9)
    assert history.best_validation_loss < 0.7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ranks": 30}, "config.yaml: training: 20 training rows for 30 ranks"),
        ({"accumulate": 11}, r"20 training rows for 2 ranks \(accumulate 11\)"),
        ({"device": "cuda"}, "training.device: cuda needs a GPU for each of 2 ranks; this"),
    ],
)
def test_what_cannot_work_is_refused_before_a_process_starts(
    changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    if torch.cuda.is_available() and "device" in changes:
        pytest.skip("this machine has a GPU")
    draw(SIGNATURE, 20).write_parquet(tmp_path / "rows.parquet")
    with pytest.raises(UserError, match=message):
        check(small(**changes), tmp_path / "rows.parquet", tmp_path / "rows.parquet")


def test_a_step_needs_a_row_for_each_rank() -> None:
    with pytest.raises(ValueError, match=r"batch_rows \(3\) must be ranks × accumulate \(2 × 2\)"):
        TrainingSettings(ranks=2, batch_rows=3, accumulate=2)


def test_windows_give_each_row_once_and_the_same_for_a_seed() -> None:
    rows = np.arange(30_000)
    numbers, categories = rows[:, None].astype(np.float32), np.zeros((len(rows), 0), np.int64)
    feed = Feed(Arrays(numbers, categories, rows), torch.device("cpu"), window=1)
    assert not feed.fits

    def epoch(seed: int, size: int = 100) -> torch.Tensor:
        batches = [feed.take(indices) for indices in feed.shuffled(size, seed)]
        assert all(torch.equal(numbers[:, 0].long(), target) for numbers, _, target in batches)
        return torch.cat([target for _, _, target in batches])

    first = epoch(1)
    assert first.sort().values.tolist() == rows.tolist()
    assert torch.equal(first, epoch(1)) and not torch.equal(first, epoch(2))
    assert len(epoch(1, 7000)) == len(epoch(1, 7000).unique()) == 28_000  # whole batches only


@pytest.mark.parametrize(("rows", "size", "ranks"), [(1001, 100, 2), (401, 100, 4), (3, 100, 3)])
def test_each_rank_gets_as_many_validation_batches(
    rows: int, size: int, ranks: int, tmp_path: Path
) -> None:
    draw(SIGNATURE, rows).write_parquet(tmp_path / "rows.parquet")
    write_arrays(tmp_path / "rows.parquet", SIGNATURE, tmp_path / "arrays")
    feed = Feed(Arrays.mapped(tmp_path / "arrays"), torch.device("cpu"))
    batches = [list(feed.in_order(size, rank, ranks)) for rank in range(ranks)]
    assert len({len(own) for own in batches}) == 1
    assert all(len(batch) for own in batches for batch in own)
    assert torch.cat([batch for own in batches for batch in own]).unique().tolist() == [
        *range(rows)
    ]
