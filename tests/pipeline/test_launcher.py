"""Two real ranks under torchrun, and what is said when one of them fails for good."""

from pathlib import Path

import numpy as np
import pytest
from pipeline.ranks import Trained, running, small, train

from modelyard.documents import UserError
from modelyard.pipeline.training import outcome
from modelyard.pipeline.training.outcome import failure
from modelyard.pipeline.training.workdir import HISTORY, LOG, WEIGHTS

pytestmark = pytest.mark.xdist_group("training")


def test_two_ranks_train(uninterrupted: Trained) -> None:
    history, work = uninterrupted.history, uninterrupted.folder / "work"
    assert (history.ranks, history.rows, len(history.epochs)) == (2, 1001, 3)
    assert history.environment["device"] == "cpu" and history.environment["threads"] == "1"
    assert [uninterrupted.printed.count(f"epoch   {n}/3") for n in (1, 2, 3)] == [1, 1, 1]
    assert (work / WEIGHTS).exists()
    # The ranks share one copy of the data; nothing wrote through to it.
    assert np.load(work / "train" / "numbers.npy").shape == (1001, 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "restarts", "message"),
    [
        ("raises", 3, r"training: rank 1 failed at .*:\d+ in fault: ValueError: rank 1 has"),
        ("killed always", 1, "training: rank 1 was killed by SIGKILL"),
    ],
)
def test_a_rank_that_fails_for_good_is_named_and_takes_the_others_along(
    fault: str, restarts: int, message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        train(tmp_path, fault, small(restarts=restarts))
    assert "\n" not in str(caught.value)
    work = tmp_path / "work"
    assert not (work / WEIGHTS).exists() and not (work / HISTORY).exists()
    assert not running(tmp_path)
    logged = capfd.readouterr().err  # by Dagster
    assert ("ValueError: rank 1 has seen a ghost\nin the data" in logged) == (fault == "raises")
    assert "Traceback" in logged


def test_a_rank_that_exits_without_a_word(tmp_path: Path) -> None:
    outcome.write(tmp_path, outcome.Outcome(kind="rank", rank=1, exit_code=7))
    assert "rank 1 exited with 7" in failure(tmp_path)


def test_a_log_without_ranks_is_shown(tmp_path: Path) -> None:
    (tmp_path / LOG).write_text("usage: torchrun\nno such option")
    said = failure(tmp_path)
    assert "before its ranks ran" in said and "no such option" in said
