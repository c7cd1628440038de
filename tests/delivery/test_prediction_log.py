"""Prediction logs as they are written: by JSON lines, by Parquet files, by both."""

import json
import math
import os
from pathlib import Path

import numpy as np
import polars as pl

from modelyard.delivery.local.prediction_log import PredictionLog, Request
from modelyard.documents.signature import Category, Number, Signature

ROWS = [
    {"time": 10.0, "request_id": "a", "version": 1, "row": 0, "inputs": {"x": 0.5, "c": "UA"}},
    {"time": 11.0, "request_id": "b", "version": 1, "row": 0, "inputs": {"x": None, "c": None}},
    {"time": 11.0, "request_id": "b", "version": 1, "row": 1, "inputs": {"x": 2.0, "c": "B6"}},
    {"time": 12.0, "request_id": "b", "version": 1, "row": 0, "inputs": {"x": 3.0, "c": "B6"}},
]
SCORES = [0.1, 0.2, 0.3, 0.4]


def rows(scores: list) -> list[dict]:
    return [{**row, "score": score} for row, score in zip(ROWS, scores, strict=True)]


def table(folder: Path, number: int, found: list[dict]) -> Path:
    """As the serving room writes them: under a name that no reader takes, then renamed."""
    path = folder / f"v1-host-7-1000-{number:06d}.parquet"
    pl.DataFrame(found).write_parquet(folder / f".{path.name}")
    return (folder / f".{path.name}").rename(path)


def lines(path: Path, found: list[dict]) -> None:
    with path.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in found)


def test_both_kinds_of_file_say_the_same(tmp_path: Path) -> None:
    for kind in ("j", "p"):
        (tmp_path / kind).mkdir()
    lines(tmp_path / "j" / "1.jsonl", rows(SCORES))
    table(tmp_path / "p", 0, rows(SCORES))
    j, p = (PredictionLog(tmp_path / kind, since=10.5).requests() for kind in ("j", "p"))
    assert j == p
    assert [(r.id, r.scores) for r in j] == [("b", [[0.2], [0.3]]), ("b", [[0.4]])]


def test_only_what_is_new_is_read(tmp_path: Path) -> None:
    log = PredictionLog(tmp_path / "later", since=0.0)
    assert log.requests() == []
    log.folder.mkdir()
    table(log.folder, 0, rows(SCORES)[:1])
    assert [r.id for r in log.requests()] == ["a"] and log.requests() == []
    (log.folder / ".v1-host-7-1000-000001.parquet").write_bytes(b"not yet there")
    (log.folder / "v1-host-7-1000-000002.parquet").write_bytes(b"broken")
    table(log.folder, 3, [{"other": 1}])
    table(log.folder, 4, rows(SCORES)[1:3])
    lines(log.folder / "1.jsonl", rows(SCORES)[3:])
    assert [(r.id, len(r.scores)) for r in log.requests()] == [("b", 1), ("b", 2)]
    assert log.requests() == []


def test_files_of_days_ago_are_not_opened(tmp_path: Path) -> None:
    old = table(tmp_path, 0, rows(SCORES))
    os.utime(old, (5.0, 5.0))
    assert PredictionLog(tmp_path, since=6.0).requests() == []


def test_several_classes_and_no_number(tmp_path: Path) -> None:
    table(tmp_path, 0, rows([[0.2, 0.8], [0.5, 0.5], None, [float("nan"), 1.0]]))
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


def test_what_the_servers_write_is_what_is_read_here(tmp_path: Path) -> None:
    """The two rooms meet in this format only."""
    from modelyard.serving.observability.prediction_log import Entry
    from modelyard.serving.observability.prediction_log import PredictionLog as Writer

    signature = Signature.model_validate(
        {
            "task": "regression",
            "target": "y",
            "inputs": [Number(name="x"), Category(name="c", values=("UA", "B6"), nullable=True)],
        }
    )
    writer = Writer(str(tmp_path), 1, signature, lambda rows: None, flush_s=0.05)
    bodies = [{"rows": [{"x": i, "c": "UA"}, {"x": 0.5, "c": None}]} for i in range(3)]
    for i, asked in enumerate(bodies):
        scores = np.array([float(i), 0.25])
        writer.put(Entry(10.0 + i, f"id-{i}", "rows", json.dumps(asked).encode(), scores, None))
    writer.close()
    assert PredictionLog(tmp_path, since=11.0).requests() == [
        Request(f"id-{i}", [{"x": float(i), "c": "UA"}, {"x": 0.5, "c": None}], [[i], [0.25]])
        for i in (1, 2)
    ]
