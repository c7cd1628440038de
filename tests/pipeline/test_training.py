"""Trainings that are killed, stopped, moved to other ranks, starved of disk; with real ranks."""

import shutil
from contextlib import redirect_stdout
from io import StringIO
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from pipeline.ranks import SIGNATURE, Trained, running, small, train

from modelyard.documents import UserError
from modelyard.pipeline.config.settings import TrainingSettings
from modelyard.pipeline.data.synthetic import draw
from modelyard.pipeline.data.tensors import Arrays, write_arrays
from modelyard.pipeline.launchers.local import check_machine
from modelyard.pipeline.launchers.preparation import check, prepare
from modelyard.pipeline.training.checkpoint import NEW, PROGRESS, complete
from modelyard.pipeline.training.loader import Feed
from modelyard.pipeline.training.run import schedule
from modelyard.pipeline.training.workdir import CHECKPOINTS, WEIGHTS, History, unfinished

pytestmark = pytest.mark.xdist_group("training")
TOLERANCE = 0.01
"""of the validation loss, when a training goes on with another number of ranks"""


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A training of two ranks that lacked disk, lost a rank and was stopped, and what it printed;
    not to be changed."""
    folder = tmp_path_factory.mktemp("interrupted") / "flights"
    folder.mkdir()
    with redirect_stdout(StringIO()) as printed:
        with pytest.raises(UserError, match="stopped by SIGTERM; run it again to go on"):
            train(folder, "full disk at 1.3, killed, stopped at 2.7")
    return folder, printed.getvalue()


@pytest.fixture
def stopped(interrupted: tuple[Path, str], tmp_path: Path) -> Path:
    """The same once more, to go on with."""
    folder = Path(shutil.copytree(interrupted[0], tmp_path / "flights"))
    half = folder / "work" / CHECKPOINTS / NEW  # as a writer leaves it that was killed
    half.mkdir()
    (half / PROGRESS).write_text("{")
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "work" / WEIGHTS, weights_only=True)


def losses(history: History) -> list[float]:
    return [epoch.validation_loss for epoch in history.epochs]


def checkpoints(folder: Path) -> list[str]:
    return [path.name for path in complete(folder / "work" / CHECKPOINTS)]


def test_a_training_without_a_checkpoint_goes_on(interrupted: tuple[Path, str]) -> None:
    assert "warning: no checkpoint in epoch 1, after step 3: " in interrupted[1]


def test_a_rank_that_is_killed_is_started_again(interrupted: tuple[Path, str]) -> None:
    """With the other one, by torchrun."""
    folder, printed = interrupted
    assert (folder / "killed.1").exists()
    assert "rank 1 was killed by SIGKILL; all ranks are started again: restart 1 of 3" in printed
    assert "going on from the checkpoint in epoch 2, after step 2" in printed


def test_a_training_that_is_stopped_leaves_a_checkpoint(interrupted: tuple[Path, str]) -> None:
    """SIGTERM of torchrun, in mid-epoch."""
    folder, _ = interrupted
    (name,) = checkpoints(folder)
    assert unfinished(folder / "work")
    assert "00002-000000007" <= name < "00003-000000010" and not running(folder)


def test_nothing_of_all_that_costs_a_bit(
    stopped: Path, uninterrupted: Trained, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nor does the SIGTERM of one rank alone, after which both are started again."""
    history = train(stopped, "told to stop at 3.3")
    assert "going on from the checkpoint in epoch 3, after step 3" in capfd.readouterr().out
    assert losses(history) == losses(uninterrupted.history)
    expected = weights(uninterrupted.folder)
    assert all(torch.equal(v, expected[k]) for k, v in weights(stopped).items())
    assert checkpoints(stopped) == ["00004-000000000"]


@pytest.mark.slow
def test_fewer_ranks_go_on(stopped: Path, uninterrupted: Trained) -> None:
    history = train(stopped, "", small(ranks=1))
    assert history.ranks == 1
    assert losses(history) == pytest.approx(losses(uninterrupted.history), abs=TOLERANCE)


@pytest.mark.slow
def test_more_ranks_go_on_in_parts_of_steps_and_of_precision(
    uninterrupted: Trained, tmp_path: Path
) -> None:
    """Whose dropout and rounding differ, too."""
    other = {"accumulate": 3, "precision": "bfloat16"}
    with pytest.raises(UserError, match="stopped by SIGTERM"):
        train(tmp_path, "stopped", small(ranks=1, **other))
    history = train(tmp_path, "", small(ranks=2, **other))
    assert history.ranks == 2
    assert losses(history) == pytest.approx(losses(uninterrupted.history), abs=TOLERANCE)


@pytest.mark.slow
def test_sharded_ranks_come_to_the_same(uninterrupted: Trained, tmp_path: Path) -> None:
    """Killed on the way."""
    history = train(tmp_path, "killed", small(strategy="fsdp2"))
    assert losses(history) == pytest.approx(losses(uninterrupted.history), abs=TOLERANCE)
    expected = weights(uninterrupted.folder)
    assert {k: v.shape for k, v in weights(tmp_path).items()} == {
        k: v.shape for k, v in expected.items()
    }


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


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r" in \w+: FloatingPointError: the .* lower learning_rate;"
    ):
        train(tmp_path, "nan")
    assert checkpoints(tmp_path) == ["00002-000000002"]
    assert not (tmp_path / "work" / WEIGHTS).exists()


def test_the_learning_rate_warms_up_and_falls_to_0() -> None:
    settings = small(schedule="cosine", warmup_steps=5)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.01)
    rate = schedule(optimizer, settings, steps_per_epoch=10)
    rates = []
    for _ in range(31):
        rates += rate.get_last_lr()
        optimizer.step()
        rate.step()
    assert rates[:6] == pytest.approx([0.002, 0.004, 0.006, 0.008, 0.01, 0.01])
    assert all(before > after for before, after in pairwise(rates[5:]))
    assert rates[-1] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ranks": 1000, "batch_rows": 1000}, "training.ranks: 1000 is more than 4 for each of"),
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
        check_machine(small(**changes))
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
