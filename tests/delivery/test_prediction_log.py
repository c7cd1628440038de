"""Prediction logs as they are read, file by file."""

import math
import os
from pathlib import Path

from delivery import logged

from modelyard.delivery.local.prediction_log import PredictionLog, Request, latest_requests
from modelyard.documents.prediction_log import file_name, hidden

ROWS = [
    {"time": 10.0, "request_id": "a", "version": 1, "row": 0, "inputs": {"x": 0.5, "c": "UA"}},
    {"time": 11.0, "request_id": "b", "version": 1, "row": 0, "inputs": {"x": None, "c": None}},
    {"time": 11.0, "request_id": "b", "version": 1, "row": 1, "inputs": {"x": 2.0, "c": "B6"}},
    {"time": 12.0, "request_id": "b", "version": 1, "row": 0, "inputs": {"x": 3.0, "c": "B6"}},
]
SCORES = [0.1, 0.2, 0.3, 0.4]


def rows(scores: list) -> list[logged.Row]:
    return [{**row, "score": score} for row, score in zip(ROWS, scores, strict=True)]


def test_row_0_begins_a_request(tmp_path: Path) -> None:
    logged.write(tmp_path, rows(SCORES))
    found = PredictionLog(tmp_path, since=10.5).requests()
    assert [(r.id, r.scores) for r in found] == [("b", [[0.2], [0.3]]), ("b", [[0.4]])]
    assert found[0].inputs == [{"x": None, "c": None}, {"x": 2.0, "c": "B6"}]


def test_only_what_is_new_is_read(tmp_path: Path) -> None:
    log = PredictionLog(tmp_path / "later", since=0.0)
    assert log.requests() == []
    logged.write(log.folder, rows(SCORES)[:1])
    assert [r.id for r in log.requests()] == ["a"] and log.requests() == []
    (log.folder / hidden(file_name(1, "host", 7, 1000, 1))).write_bytes(b"not yet there")
    (log.folder / file_name(1, "host", 7, 1000, 2)).write_bytes(b"broken")
    logged.write(log.folder, [{"other": 1}])
    logged.write(log.folder, rows(SCORES)[1:3])
    assert [(r.id, len(r.scores)) for r in log.requests()] == [("b", 2)]
    assert log.requests() == []


def test_files_of_days_ago_are_not_opened(tmp_path: Path) -> None:
    old = logged.write(tmp_path, rows(SCORES))
    os.utime(old, (5.0, 5.0))
    assert PredictionLog(tmp_path, since=6.0).requests() == []


def test_the_newest_requests_of_a_log(tmp_path: Path) -> None:
    for place, row in enumerate(rows(SCORES)):
        path = logged.write(tmp_path, [row])
        os.utime(path, (1000.0 + place, 1000.0 + place))
    assert [r.scores for r in latest_requests(tmp_path, 1)] == [[[0.4]]]
    assert [r.id for r in latest_requests(tmp_path, 9, without="b")] == ["a"]


def test_several_classes_and_no_number(tmp_path: Path) -> None:
    logged.write(tmp_path, rows([[0.2, 0.8], [0.5, 0.5], None, [float("nan"), 1.0]]))
    scores = [s for r in PredictionLog(tmp_path, since=0.0).requests() for s in r.scores]
    assert scores[:2] == [[0.2, 0.8], [0.5, 0.5]]
    assert all(math.isnan(s[0]) for s in scores[2:])


def test_the_same_question_of_two_versions() -> None:
    def asked(*inputs: dict) -> Request:
        return Request("a", list(inputs), [[0.0]] * len(inputs))

    one = asked({"x": 0.1, "c": "UA", "old": 1})
    assert one.asks_the_same(asked({"x": 0.10000000149, "c": "UA", "new": 2}))
    assert asked({"x": None}).asks_the_same(asked({"x": float("nan")}))
    assert not one.asks_the_same(asked({"x": 0.2, "c": "UA"}))
    assert not one.asks_the_same(asked({"x": 0.1, "c": "B6"}))
    assert not one.asks_the_same(asked({"x": 0.1, "c": "UA"}, {"x": 0.1, "c": "UA"}))
    assert not asked({"x": "0.1"}).asks_the_same(asked({"x": 0.1}))
