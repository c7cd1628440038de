"""The log takes what it can, never holds up a request, and counts what it lost."""

import json
import threading
from pathlib import Path

import pytest

from modelyard.serving.prediction_log import PredictionLog


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for file in folder.iterdir() for line in file.open()]


def test_one_line_a_row(tmp_path: Path) -> None:
    log = PredictionLog(
        tmp_path / "new" / "folder", 7, lost=lambda rows: pytest.fail(f"{rows} lost")
    )
    log.put("a", [{"x": 1.0, "c": None}, {"x": 2.0, "c": "ü"}], [0.25, 0.5])
    log.put("b", [{"x": 3.0, "c": "z"}], [[0.1, 0.9]])
    log.close()
    found = lines(tmp_path / "new" / "folder")
    assert [(e["request_id"], e["row"], e["score"]) for e in found] == [
        ("a", 0, 0.25),
        ("a", 1, 0.5),
        ("b", 0, [0.1, 0.9]),
    ]
    assert found[1]["inputs"] == {"x": 2.0, "c": "ü"}
    assert all(e["version"] == 7 and e["time"] > 1e9 for e in found)


def test_a_full_queue_loses_rows_and_counts_them(tmp_path: Path) -> None:
    lost: list[int] = []
    log = PredictionLog(tmp_path, 1, lost=lost.append, capacity=10)
    entered, go_on = threading.Event(), threading.Event()
    append = log._append

    def slow(lines: bytes) -> None:
        entered.set()
        go_on.wait(20)
        append(lines)

    log._append = slow  # a disk that hangs
    log.put("first", [{}], [0.5])
    assert entered.wait(20)
    log.put("fits", [{}] * 10, [0.5] * 10)
    log.put("does not fit", [{}], [0.5])
    assert lost == [1]
    go_on.set()
    log.close()
    assert {e["request_id"] for e in lines(tmp_path)} == {"first", "fits"}


def test_a_disk_that_cannot_be_written_loses_rows_and_recovers(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    folder.write_text("a file where the folder should be")
    lost: list[int] = []
    counted = threading.Event()

    def count(rows: int) -> None:
        lost.append(rows)
        counted.set()

    log = PredictionLog(folder, 1, lost=count)
    log.put("a", [{}, {}], [0.5, 0.5])
    assert counted.wait(20)
    folder.unlink()
    log.put("b", [{}], [0.5])
    log.close()
    assert lost == [2]
    assert [e["request_id"] for e in lines(folder)] == ["b"]


def test_after_closing_rows_are_counted_as_lost(tmp_path: Path) -> None:
    lost: list[int] = []
    log = PredictionLog(tmp_path, 1, lost=lost.append)
    log.close()
    log.put("late", [{}], [0.5])
    assert lost == [1]
