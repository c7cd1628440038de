"""Columns and Arrow streams: the same predictions, the same contract."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pyarrow as pa
import pytest

from modelyard.documents import Signature
from modelyard.documents.signature import Task
from modelyard.serving.codec.types import ARROW
from modelyard.serving.testing import Server, draw_rows

pytestmark = pytest.mark.xdist_group("serving")

Servers = Callable[[Task], Server]
ROW = {"distance": 1400.0, "hour": 17, "wind": 12.5, "carrier": "AA", "dest": "LAX"}
COLUMNS = {name: [value, value] for name, value in ROW.items()}


def rows_of(task: Task, package: Callable[[Task], Path]) -> list[dict[str, Any]]:
    text = (package(task) / "signature.json").read_bytes()
    return draw_rows(Signature.model_validate_json(text), 100)


def arrow(server: Server, table: pa.Table | pl.DataFrame, **options: Any) -> httpx.Response:
    if isinstance(table, pl.DataFrame):
        body = io.BytesIO()
        table.write_ipc_stream(body, compression="uncompressed")
        content = body.getvalue()
    else:
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, table.schema, **options) as writer:
            writer.write_table(table, max_chunksize=30)
        content = sink.getvalue()
    return server.client.post("/predict", content=content, headers={"content-type": ARROW})


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_all_forms_predict_alike(
    task: Task, server: Servers, package: Callable[[Task], Path]
) -> None:
    running, rows = server(task), rows_of(task, package)
    expected = running.client.post("/predict", json={"rows": rows}).json()["predictions"]
    names = list(expected[0])

    columns = {name: [row[name] for row in rows] for name in rows[0]}
    answer = running.client.post("/predict", json={"columns": columns}).json()
    assert answer["version"] == 1 and list(answer["columns"]) == names
    for name in names:
        assert answer["columns"][name] == [p[name] for p in expected]

    frame = pl.DataFrame(rows, infer_schema_length=None)
    known = frame.with_columns(pl.col("carrier", "dest").cast(pl.Categorical))
    for table in (pa.Table.from_pylist(rows), frame, known):
        found = arrow(running, table)
        assert found.status_code == 200 and found.headers["content-type"] == ARROW
        frame = pl.DataFrame(pl.from_arrow(pa.ipc.open_stream(found.content).read_all()))
        assert frame.columns == names
        for name in names:
            assert frame[name].to_list() == [p[name] for p in expected]


def test_arrow_types_that_mean_the_same(server: Servers) -> None:
    """As pandas and polars write them: dictionaries, views, whole numbers, NaN never."""
    same = {
        "distance": pa.array([1400], pa.int16()),
        "hour": pa.array([17.0], pa.float32()),
        "wind": pa.array([None], pa.null()),
        "carrier": pa.array(["AA"]).dictionary_encode(),
        "dest": pa.array(["LAX"], pa.string_view()),
    }
    row = ROW | {"wind": None}
    expected = server("binary").client.post("/predict", json={"rows": [row]}).json()
    found = arrow(server("binary"), pa.table(same))
    assert found.status_code == 200, found.text
    score = pa.ipc.open_stream(found.content).read_all()["score"].to_pylist()
    assert score == [p["score"] for p in expected["predictions"]]


BAD_COLUMNS: list[tuple[dict[str, Any], int, int | None, str | None]] = [
    ({}, 422, 0, "distance"),
    ({**COLUMNS, "color": [1, 2]}, 422, 0, "color"),
    ({**COLUMNS, "hour": 3}, 422, 0, "hour"),
    ({**COLUMNS, "hour": [3]}, 422, 1, "hour"),
    ({**COLUMNS, "hour": [3, 24]}, 422, 1, "hour"),
    ({**COLUMNS, "hour": [3, 2.5]}, 422, 1, "hour"),
    ({**COLUMNS, "wind": [1, float("nan")]}, 422, 1, "wind"),
    ({**COLUMNS, "carrier": ["AA", "ZZ"]}, 422, 1, "carrier"),
    ({**COLUMNS, "carrier": ["AA", None]}, 422, 1, "carrier"),
    ({**COLUMNS, "carrier": [["AA"], "AA"]}, 422, 0, "carrier"),
    ({name: [] for name in ROW}, 422, None, None),
    ({name: [value] * 10_001 for name, value in ROW.items()}, 413, None, None),
]


@pytest.mark.parametrize(("columns", "status", "row", "field"), BAD_COLUMNS)
def test_bad_columns_are_refused_with_row_and_field(
    columns: dict[str, Any], status: int, row: int | None, field: str | None, server: Servers
) -> None:
    answer = server("binary").client.post("/predict", content=json.dumps({"columns": columns}))
    assert answer.status_code == status, answer.text
    first = [(e["row"], e["field"]) for e in answer.json()["errors"]][:1]
    assert first == ([] if row is None else [(row, field)])


BAD_ARROW: list[tuple[str, dict[str, Any], int, int | None, str | None]] = [
    ("missing", {"hour": None}, 422, 0, "hour"),
    ("unknown", {"color": ["x", "y"]}, 422, 0, "color"),
    ("text for a number", {"hour": ["1", "2"]}, 422, 0, "hour"),
    ("booleans for a number", {"hour": [True, False]}, 422, 0, "hour"),
    ("a number for text", {"carrier": [1, 2]}, 422, 0, "carrier"),
    ("nested", {"carrier": [["AA"], ["AA"]]}, 422, 0, "carrier"),
    ("out of range", {"hour": [1, 99]}, 422, 1, "hour"),
    ("not whole", {"hour": [1, 1.5]}, 422, 1, "hour"),
    ("null", {"hour": [1, None]}, 422, 1, "hour"),
    ("NaN", {"wind": [1.0, float("nan")]}, 422, 1, "wind"),
    ("Infinity", {"wind": [1.0, float("-inf")]}, 422, 1, "wind"),
    ("no float32", {"wind": [1.0, 1e300]}, 422, 1, "wind"),
    ("not listed", {"carrier": ["AA", "ZZ"]}, 422, 1, "carrier"),
    ("null category", {"carrier": [None, "AA"]}, 422, 0, "carrier"),
    ("all null", {"carrier": pa.nulls(2)}, 422, 0, "carrier"),
]


@pytest.mark.parametrize(("what", "change", "status", "row", "field"), BAD_ARROW)
def test_bad_arrow_is_refused_with_row_and_field(
    what: str, change: dict[str, Any], status: int, row: int | None, field: str, server: Servers
) -> None:
    columns = {n: column for n, column in (COLUMNS | change).items() if column is not None}
    answer = arrow(server("binary"), pa.table(columns))
    assert answer.status_code == status, answer.text
    error = answer.json()["errors"][0]
    assert (error["row"], error["field"]) == (row, field) and error["message"]


def test_arrow_that_is_none_is_refused(server: Servers) -> None:
    running, table = server("binary"), pa.table(COLUMNS)
    for codec in ("lz4", "zstd"):
        packed = arrow(running, table, options=pa.ipc.IpcWriteOptions(compression=codec))
        assert packed.status_code == 400 and "compressed" in packed.json()["error"]
    assert arrow(running, table.slice(0, 0)).status_code == 422
    many = pa.concat_tables([table] * 5001)
    assert arrow(running, many).status_code == 413
    twice = pa.Table.from_arrays([*table.columns, table["hour"]], [*table.column_names, "hour"])
    assert "hour: duplicate column" in arrow(running, twice).json()["error"]
    for body in (b"", b"nonsense", b"\xff\xff\xff\xff\x10\x00\x00\x00" + b"\x07" * 64):
        answer = running.client.post("/predict", content=body, headers={"content-type": ARROW})
        assert answer.status_code == 400, answer.text
