"""Predictions of two versions: paired by request, and counted."""

import math
from pathlib import Path

import polars as pl
import pytest
from delivery import logged

from modelyard.delivery.evidence.counts import Pairs, Slice
from modelyard.delivery.local.prediction_log import PredictionLog
from modelyard.delivery.local.predictions import SHADOW_ID, Answers
from modelyard.delivery.local.reference import Reference, read_reference
from modelyard.delivery.policy import Predictions
from modelyard.documents import UserError
from modelyard.documents import package as files
from modelyard.documents.prediction_log import hidden
from modelyard.documents.signature import Number, Signature

REFERENCE = Reference(edges=(0.25, 0.5, 0.75, math.inf), spread=1.0)


def log(folder: Path, *requests: tuple) -> None:
    """Each: id, time, scores of its rows, inputs of its rows (or none)."""
    rows: list[logged.Row] = []
    for request, time_, scores, *inputs in requests:
        given = [{"inputs": each} for each in inputs[0]] if inputs else [{}] * len(scores)
        for row, (score, asked) in enumerate(zip(scores, given, strict=True)):
            told = {"time": time_, "request_id": request, "row": row, "score": score}
            rows.append(told | asked)
    logged.write(folder, rows)


def answers(folder: Path, since: float = 0.0, **gate: object) -> Answers:
    logs = PredictionLog(folder / "s", since), PredictionLog(folder / "c", since)
    return Answers(logs, REFERENCE, Predictions.model_validate({"tolerance": 1.0, **gate}))


def read(found: Answers) -> Pairs:
    found.read()
    pairs = found.pairs()
    assert pairs is not None
    return pairs


def test_predictions_are_paired_by_request(tmp_path: Path) -> None:
    log(tmp_path / "s", ("old", 5.0, [0.1]), ("a", 10.0, [0.0]), ("b", 11.0, [1.0]))
    log(tmp_path / "s", ("c", 12.0, [0.5]))
    log(tmp_path / "c", ("a", 10.0, [0.5]), ("b", 11.0, [3.0]), ("stray", 11.0, [0.5]))
    found = answers(tmp_path, since=9.0)
    pairs = read(found)
    assert (pairs.requests, pairs.disagreement) == (2, 1.0)
    log(tmp_path / "other", ("c", 12.0, [None]))
    [whole] = (tmp_path / "other").iterdir()
    new = tmp_path / "c" / hidden(whole.name)
    whole.rename(new)
    assert read(found) == pairs, "a file that is being written waits"
    new.rename(tmp_path / "c" / "v2-host-8-2000-000000.parquet")
    pairs = read(found)
    assert (pairs.requests, pairs.disagreement) == (3, 2.0), "no number is no agreement"


def test_a_request_counts_once_whatever_its_rows(tmp_path: Path) -> None:
    log(tmp_path / "s", ("a", 1.0, [0.0] * 4), ("b", 1.0, [0.0]))
    log(tmp_path / "c", ("a", 1.0, [9.0, 0.0, 0.0, 0.0]), ("b", 1.0, [9.0]))
    pairs = read(answers(tmp_path))
    assert (pairs.requests, pairs.disagreement) == (2, 1.25)


def test_slices_and_the_largest_disagreements(tmp_path: Path) -> None:
    asked = [{"carrier": c, "n": 1} for c in ("UA", "UA", "B6", None)]
    log(tmp_path / "s", ("a", 1.0, [0.0] * 4, asked), ("b", 1.0, [0.0], [{"carrier": "UA"}]))
    log(tmp_path / "c", ("a", 1.0, [2.0, 0.0, 0.0, 5.0], asked))
    log(tmp_path / "c", ("b", 1.0, [None], [{"carrier": "UA"}]))
    pairs = read(answers(tmp_path, slices=("carrier",)))
    assert pairs.slices == {
        "carrier=UA": Slice(requests=2, disagreement=1.5),
        "carrier=B6": Slice(requests=1, disagreement=0.0),
        "carrier=missing": Slice(requests=1, disagreement=1.0),
    }
    assert [(d.request_id, d.row, d.stable, d.candidate) for d in pairs.largest] == [
        ("b", 0, [0.0], [None]), ("a", 3, [0.0], [5.0]), ("a", 0, [0.0], [2.0]),
    ]  # fmt: skip
    assert pairs.largest[1].inputs == {"carrier": None, "n": 1}


def test_only_the_ten_largest_and_no_slice_for_every_number(tmp_path: Path) -> None:
    for arm, shift in (("s", 0.0), ("c", 10.0)):
        requests = [(f"{i}", 1.0, [i * shift], [{"x": i / 3}]) for i in range(50)]
        log(tmp_path / arm, *requests)
    pairs = read(answers(tmp_path, slices=("x",)))
    assert [d.candidate for d in pairs.largest] == [[i * 10.0] for i in range(49, 39, -1)]
    assert len(pairs.slices) == 21 and pairs.slices["x=other"].requests == 30


def test_a_client_that_reuses_its_request_ids(tmp_path: Path) -> None:
    """Paired by the inputs that both versions know, in order where these are the same, too."""

    def requests(offset: float, skip: int, **more: int) -> list[tuple]:
        every = [("job", 1.0, [i // 2 + offset], [{"x": i // 2, **more}]) for i in range(200)]
        return [r for i, r in enumerate(every) if i != skip]

    log(tmp_path / "s", *requests(0.0, skip=-1, new=1))
    log(tmp_path / "c", *requests(0.1, skip=7))
    pairs = read(answers(tmp_path, tolerance=0.2))
    assert (pairs.requests, pairs.disagreement) == (199, 0.0)


def test_scores_of_several_classes(tmp_path: Path) -> None:
    several = [(f"{i}", 1.0, [[i / 10, 1 - i / 10]]) for i in range(10)]
    log(tmp_path / "s", *several)
    log(tmp_path / "c", *several[:8], ("8", 1.0, [[0.1, 0.9]]), ("9", 1.0, [[0.5, 0.3, 0.2]]))
    found = answers(tmp_path, tolerance=0.9)
    pairs = read(found)
    assert (pairs.requests, pairs.disagreement) == (10, 2.0)
    assert found.scores(0) == {0.25: 0, 0.5: 1, 0.75: 4, math.inf: 5}, "the likeliest class's"


def test_live_scores_are_counted_one_a_request(tmp_path: Path) -> None:
    log(tmp_path / "s", ("a", 1.0, [0.1]), ("b", 1.0, [0.25]), ("c", 1.0, [0.3] * 1000))
    log(tmp_path / "s", (f"{SHADOW_ID}1", 1.0, [0.1]), ("d", 1.0, [None]))
    log(tmp_path / "c", ("e", 1.0, [0.6]), (f"{SHADOW_ID}1", 1.0, [0.1]))
    found = answers(tmp_path)
    found.read()
    found.read()
    assert found.scores(0) == {0.25: 2, 0.5: 1, 0.75: 0, math.inf: 1}
    assert found.scores(1) == {0.25: 0, 0.5: 0, 0.75: 1, math.inf: 0}
    pairs = found.pairs()
    assert pairs is not None and pairs.requests == 1, "the shadow's own are paired"
    found.stop_pairing()
    log(tmp_path / "c", ("f", 1.0, [0.6]))
    found.read()
    assert found.scores(1)[0.75] == 2 and found.pairs() is None


def package(folder: Path, task: str, scores: dict[str, list], classes: tuple = ()) -> Path:
    folder.mkdir(exist_ok=True)
    signature = Signature.model_validate(
        {"task": task, "target": "y", "inputs": [Number(name="x")], "classes": classes}
    )
    (folder / files.SIGNATURE).write_text(signature.model_dump_json())
    pl.DataFrame(scores).write_parquet(folder / files.REFERENCE)
    return folder


def test_the_reference_of_each_task(tmp_path: Path) -> None:
    values = [float(i) for i in range(101)]
    regression = read_reference(package(tmp_path, "regression", {"score": values}))
    assert regression.edges == (*[5.0 * i for i in range(1, 20)], math.inf)
    assert regression.spread == pytest.approx(29.15, abs=0.01)
    binary = read_reference(package(tmp_path, "binary", {"score": [0.1, 0.3]}, ("n", "y")))
    assert binary.edges[:3] == (0.05, 0.1, 0.15) and len(binary.edges) == 20
    assert binary.spread == pytest.approx(0.1)
    constant = read_reference(package(tmp_path, "regression", {"score": [2.0] * 9}))
    assert constant.edges == (2.0, math.inf) and constant.spread == 0.0
    classes = {"score_a": [0.0, 1.0, float("nan")], "score_b": [1.0, 0.0, 0.0]}
    several = read_reference(package(tmp_path, "multiclass", classes, ("a", "b")))
    assert several.spread == pytest.approx(math.sqrt(0.5))


def test_a_package_without_scores(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no reference scores"):
        read_reference(tmp_path)
    with pytest.raises(UserError, match="no reference scores: .*score"):
        read_reference(package(tmp_path, "regression", {"other": [1.0]}))
    with pytest.raises(UserError, match="no reference scores in reference.parquet"):
        read_reference(package(tmp_path, "regression", {"score": [float("nan")]}))
