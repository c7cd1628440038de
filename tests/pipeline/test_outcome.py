"""How torchrun ended, from torch's own exceptions to the file that is read."""

import json
import signal
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.elastic.rendezvous import RendezvousConnectionError

from modelyard.pipeline.launchers.kubernetes.entrypoint import Place, _explain
from modelyard.pipeline.launchers.kubernetes.manifests import AGAIN_CODE, MISTAKE_CODE
from modelyard.pipeline.storage.objects import Objects
from modelyard.pipeline.training import outcome
from modelyard.pipeline.training.outcome import Outcome, outcome_of
from modelyard.pipeline.training.workdir import LOG, MISTAKE, Mistake

KILLED = Outcome(kind="rank", rank=1, exit_code=-9)


def failed(folder: Path, rank: int, code: int, message: object, second: int) -> ProcessFailure:
    error = folder / f"error-{rank}.json"
    if message:
        error.write_text(json.dumps({"message": message, "timestamp": str(second)}))
    return ProcessFailure(rank, 4711, code, str(error))


def test_the_rank_that_failed_first_is_named(tmp_path: Path) -> None:
    extra = {"extraInfo": {"timestamp": "5"}}
    failures = {
        0: failed(tmp_path, 0, 1, {"message": "RuntimeError: lost\nrank 1", **extra}, 5),
        1: failed(tmp_path, 1, 1, "ValueError: no", 7),
        2: failed(tmp_path, 2, 1, "", 0),  # without a file, as late as now
    }
    found = outcome_of(ChildFailedError("train", failures))
    assert found == Outcome(kind="rank", rank=0, exit_code=1, exception="RuntimeError: lost")
    assert outcome_of(ChildFailedError("train", {1: failed(tmp_path, 1, 7, "", 0)})).exception == (
        "ValueError: no"
    )
    silent = outcome_of(ChildFailedError("train", {3: failed(tmp_path, 3, -9, "", 0)}))
    assert silent == Outcome(kind="rank", rank=3, exit_code=-9)
    assert silent.ended == "was killed by SIGKILL"


def lost_while_it_left() -> RuntimeError:
    try:
        try:
            raise RendezvousConnectionError("no answer")
        finally:
            raise RuntimeError("cannot shut down")
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (
            SignalException("a word that nobody reads", signal.SIGTERM),
            Outcome(kind="signal", exit_code=-15),
        ),
        (
            RendezvousConnectionError("no\nanswer"),
            Outcome(kind="rendezvous", exception="torchrun failed: RendezvousConnectionError: no"),
        ),
        (
            lost_while_it_left(),
            Outcome(kind="rendezvous", exception="torchrun failed: RuntimeError: cannot shut down"),
        ),
        (
            RuntimeError("Rendezvous"),
            Outcome(kind="torchrun", exception="torchrun failed: RuntimeError: Rendezvous"),
        ),
    ],
)
def test_what_torchrun_raises(error: Exception, found: Outcome) -> None:
    assert outcome_of(error) == found


def test_a_killed_torchrun_says_nothing_itself(tmp_path: Path) -> None:
    assert outcome.read(tmp_path, -9) == Outcome(kind="signal", exit_code=-9)
    outcome.write(tmp_path, KILLED)  # whom torchrun started again
    assert outcome.read(tmp_path, -9) == Outcome(kind="signal", exit_code=-9)
    assert outcome.read(tmp_path, 1) == KILLED
    assert outcome.was_stopped(tmp_path, -9) and not outcome.was_stopped(tmp_path, 1)


def test_what_cannot_be_written_does_not_end_torchrun(tmp_path: Path) -> None:
    (tmp_path / LOG).write_text("")
    outcome.write(tmp_path / LOG, KILLED)  # no folder: an OSError, as of a full disk


@pytest.mark.parametrize(
    ("found", "code", "said"),
    [
        (KILLED, 1, "rank 1 was killed by SIGKILL"),
        (Outcome(kind="rank", rank=1, exit_code=7), 1, "rank 1 exited with 7"),
        (Outcome(kind="rank", exit_code=1, exception="gloo"), AGAIN_CODE, "lost the other pods"),
        (Outcome(kind="rank", exit_code=AGAIN_CODE), AGAIN_CODE, "lost the other pods"),
        (Outcome(kind="rendezvous", exception="…"), AGAIN_CODE, "lost the other pods"),
        (
            Outcome(kind="torchrun", exception="torchrun failed: Rendezvous"),
            1,
            "torchrun failed: Re",
        ),
    ],
)
def test_a_pod_is_started_again_where_it_lost_the_others(
    found: Outcome, code: int, said: str, tmp_path: Path
) -> None:
    place = Place(index=0, pods=2, ranks=1, address="", port=1, folder=tmp_path / "work")
    place.folder.mkdir()
    (tmp_path / "storage").mkdir()
    objects = Objects(f"file://{tmp_path}/storage")
    outcome.write(place.folder, found)
    got, why = _explain(place, objects, 1, told_to_stop=False)
    assert got == code and why.startswith(said)
    assert _explain(place, objects, 1, told_to_stop=True)[0] == AGAIN_CODE
    mistake = Mistake(rank=0, message="ValueError: no")
    (place.folder / MISTAKE).write_text(mistake.model_dump_json())
    assert _explain(place, objects, 1, told_to_stop=False) == (MISTAKE_CODE, str(mistake))
