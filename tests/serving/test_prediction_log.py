"""The log takes what it can, never holds up a request, and counts what it lost."""

import json
import logging
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet
import pytest

from modelyard.documents import Signature, UserError
from modelyard.documents.signature import Category, Number
from modelyard.serving.codec.arrow_codec import write as to_arrow
from modelyard.serving.codec.types import Form
from modelyard.serving.observability.prediction_log import Entry, PredictionLog

SIGNATURE = Signature(
    task="binary",
    target="t",
    inputs=(
        Number(name="x", nullable=True),
        Category(name="c", values=("z",), open=True, nullable=True),
    ),
    classes=("no", "yes"),
)
ROW = {"x": 0.1, "c": "ü"}


def entry(
    request_id: str,
    rows: list[dict] | None = None,
    scores: object = None,
    form: Form = "rows",
    body: bytes | None = None,
    classes: list[str] | None = None,
    time: float = 1e9,
) -> Entry:
    rows = [ROW] if rows is None else rows
    body = json.dumps({"rows": rows}).encode() if body is None else body
    scores = np.array([0.5] * len(rows) if scores is None else scores)
    return Entry(time, request_id, form, body, scores, classes)


def log_to(folder: Path | str, lost: Callable[[int], None] | None = None, **given) -> PredictionLog:
    def none(rows: int) -> None:
        pytest.fail(f"{rows} rows lost")

    signature = given.pop("signature", SIGNATURE)
    return PredictionLog(str(folder), 7, signature, lost or none, **given)


def read(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(folder / "*.parquet").sort("time", "row")


def test_one_row_a_row(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    log = log_to(folder)
    rows = [{"x": 1, "c": None}, {"c": "ü", "x": 64.4}]
    log.put(entry("a", rows, [0.25, 0.5], time=1e9))
    log.put(entry("b", [{"x": None, "c": "z"}], [0.75], time=2e9))
    log.close()
    (file,) = folder.iterdir()
    assert re.fullmatch(r"v7-.+-\d+-\d+-000000\.parquet", file.name)
    found = read(folder)
    assert found.schema == pl.Schema(
        {
            "time": pl.Float64, "request_id": pl.String, "version": pl.Int64, "row": pl.Int32,
            "inputs": pl.Struct({"x": pl.Float64, "c": pl.String}),
            "score": pl.Float64, "class": pl.String,
        }
    )  # fmt: skip
    assert found.drop("inputs").rows() == [
        (1e9, "a", 7, 0, 0.25, "no"), (1e9, "a", 7, 1, 0.5, "yes"), (2e9, "b", 7, 0, 0.75, "yes")
    ]  # fmt: skip
    inputs = [{"x": 1.0, "c": None}, {"x": 64.4, "c": "ü"}, {"x": None, "c": "z"}]
    assert found["inputs"].to_list() == inputs


def test_each_form_of_a_request_is_logged_alike(tmp_path: Path) -> None:
    log = log_to(tmp_path)
    columns = b'{"columns":\r\n {"c": ["z", null],\n "x": [1e-3, 2]}}'
    log.put(entry("columns", [ROW] * 2, form="columns", body=columns, time=1))
    table = {"c": pa.array(["q", "z"]).dictionary_encode(), "x": pa.array([1, None], pa.int32())}
    log.put(entry("arrow", [ROW] * 2, form="arrow", body=to_arrow(table), time=2))
    frame = pl.DataFrame({"x": [7], "c": ["z"]}, schema={"x": pl.Int8, "c": pl.Categorical})
    views = frame.write_ipc_stream(None, compression="uncompressed").getvalue()
    log.put(entry("views", [ROW], form="arrow", body=views, time=2.5))
    spaced = b'{"rows":\n[{"\\u0063": "z\\n", "x": 9}]}'
    log.put(entry("rows", [ROW], form="rows", body=spaced, time=3))
    log.close()
    found = read(tmp_path)
    assert found["request_id"].to_list() == ["columns"] * 2 + ["arrow"] * 2 + ["views", "rows"]
    assert found["inputs"].to_list() == [
        {"x": 1e-3, "c": "z"}, {"x": 2.0, "c": None},
        {"x": 1.0, "c": "q"}, {"x": None, "c": "z"}, {"x": 7.0, "c": "z"}, {"x": 9.0, "c": "z\n"},
    ]  # fmt: skip


def test_several_classes_and_the_classes_that_a_team_says(tmp_path: Path) -> None:
    several = SIGNATURE.model_copy(update={"task": "multiclass", "classes": ("a", "b", "c")})
    log = log_to(tmp_path, signature=several)
    log.put(entry("a", [ROW] * 2, [[0.1, 0.7, 0.2], [0.8, 0.1, 0.1]], time=1))
    log.put(entry("b", [ROW], [[0.2, 0.2, 0.6]], classes=["a"], time=2))
    log.close()
    found = read(tmp_path)
    assert found["score"].to_list() == [[0.1, 0.7, 0.2], [0.8, 0.1, 0.1], [0.2, 0.2, 0.6]]
    assert found["class"].to_list() == ["b", "a", "a"]


def test_a_regression_has_no_class(tmp_path: Path) -> None:
    log = log_to(
        tmp_path, signature=SIGNATURE.model_copy(update={"task": "regression", "classes": ()})
    )
    log.put(entry("a"))
    log.close()
    assert "class" not in read(tmp_path).columns


def test_a_number_that_arrow_reads_otherwise_is_logged(tmp_path: Path) -> None:
    log = log_to(tmp_path)
    log.put(entry("huge", body=b'{"rows": [{"x": 1%s, "c": "z"}]}' % (b"0" * 30)))
    log.close()
    assert read(tmp_path)["inputs"].to_list() == [{"x": 1e30, "c": "z"}]


def test_rows_are_in_a_file_before_the_log_is_closed(tmp_path: Path) -> None:
    """Files come one after the other, each whole from the moment that it is there."""
    log = log_to(tmp_path, flush_s=0.01)
    for number in range(3):
        log.put(entry(str(number)))
        done = threading.Event()
        while len(list(tmp_path.glob("[!.]*.parquet"))) <= number:
            assert not done.wait(0.01)
    log.close()
    names = sorted(p.name for p in tmp_path.iterdir())
    assert [n[-14:] for n in names] == [f"{n:06d}.parquet" for n in range(3)]


def test_a_full_queue_loses_rows_and_counts_them(tmp_path: Path) -> None:
    lost: list[int] = []
    log = log_to(tmp_path, lost.append, capacity=10, flush_s=0.01)
    entered, go_on = threading.Event(), threading.Event()
    write = log._files.write

    def slow(table: pa.Table) -> None:
        entered.set()
        go_on.wait(20)
        write(table)

    log._files.write = slow  # a disk that hangs
    log.put(entry("first"))
    assert entered.wait(20)
    log.put(entry("fits", [ROW] * 10))
    log.put(entry("does not fit"))
    assert lost == [1]
    go_on.set()
    log.close()
    assert set(read(tmp_path)["request_id"]) == {"first", "fits"}


def test_a_disk_that_cannot_be_written_loses_rows_and_recovers(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    folder.write_text("a file where the folder should be")
    lost: list[int] = []
    counted = threading.Event()

    def count(rows: int) -> None:
        lost.append(rows)
        counted.set()

    log = log_to(folder, count, flush_s=0.01)
    log.put(entry("a", [ROW] * 2))
    assert counted.wait(20)
    folder.unlink()
    log.put(entry("b"))
    log.close()
    assert lost == [2]
    assert read(folder)["request_id"].to_list() == ["b"]
    assert not list(folder.glob(".*"))


def test_after_closing_rows_are_counted_as_lost(tmp_path: Path) -> None:
    lost: list[int] = []
    log = log_to(tmp_path, lost.append)
    log.close()
    log.put(entry("late"))
    assert lost == [1] and not list(tmp_path.iterdir())


def test_object_storage_by_its_url(tmp_path: Path) -> None:
    """Arrow's own file systems; `file://` is one that needs no cloud."""
    log = log_to(tmp_path.as_uri())
    log.put(entry("a"))
    log.close()
    assert read(tmp_path)["request_id"].to_list() == ["a"]
    with pytest.raises(UserError, match="MODELYARD_PREDICTION_LOG=nowhere://bucket: "):
        log_to("nowhere://bucket")
    with pytest.raises(UserError, match="=s3://…@bucket: .*syntax error") as refused:
        log_to("s3://key:top/secret@bucket")
    assert "secret" not in str(refused.value), "clients see it as why the server is not ready"


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """What follows the bucket in a URL of a real S3 server on loopback; it has one, `bucket`."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_EC2_METADATA_DISABLED"):
        monkeypatch.setenv(name, "true")
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    options = f"endpoint_override={host}:{port}&scheme=http"
    system, _ = pa.fs.FileSystem.from_uri(f"s3://bucket?{options}&allow_bucket_creation=true")
    system.create_dir("bucket")
    yield f"?{options}"
    server.stop()


def test_object_storage_by_s3(storage: str) -> None:
    log = log_to(f"s3://bucket/predictions/{storage}")
    log.put(entry("a", [ROW] * 2))
    log.close()
    system, _ = pa.fs.FileSystem.from_uri(f"s3://bucket{storage}")
    (file,) = system.get_file_info(pa.fs.FileSelector("bucket/predictions"))
    found = pa.parquet.read_table(file.path, filesystem=system)
    assert found["request_id"].to_pylist() == ["a", "a"]


def test_a_bucket_that_takes_nothing_loses_rows_and_counts_them(storage: str) -> None:
    lost: list[int] = []
    log = log_to(f"s3://nowhere/predictions{storage}", lost.append)
    log.put(entry("a", [ROW] * 3))
    log.close()
    assert lost == [3]


def test_a_later_truth_is_joined_by_id(tmp_path: Path) -> None:
    """The three lines of docs/how-to/serving.md."""
    log = log_to(tmp_path / "predictions")
    log.put(entry("a", [ROW] * 2, [0.2, 0.9]))
    log.put(entry("b", [ROW], [0.6]))
    log.close()
    truth = {"request_id": ["a", "a", "c"], "row": [0, 1, 0], "late": [0, 1, 1]}
    pl.DataFrame(truth, schema_overrides={"row": pl.Int32}).write_parquet(
        tmp_path / "truth.parquet"
    )
    text = (Path(__file__).parents[2] / "docs" / "how-to" / "serving.md").read_text()
    (code,) = re.findall(r"```python\n(predictions = .*?)```", text, re.S)
    names: dict = {"pl": pl}
    exec(code.replace("predictions/", f"{tmp_path}/predictions/").replace(
        "truth.parquet", f"{tmp_path}/truth.parquet"), names)  # fmt: skip
    assert names["joined"].sort("score").select("score", "late").rows() == [(0.2, 0), (0.9, 1)]
