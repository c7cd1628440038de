"""`modelyard score`: the server's rules and scores, a file at a time."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from serving.conftest import ROW, signature

from modelyard import cli
from modelyard.documents import Signature
from modelyard.documents.signature import Number, Task
from modelyard.serving.batch.score import BATCH_ROWS
from modelyard.serving.codec.types import ARROW
from modelyard.serving.inference.model import Model
from modelyard.serving.testing import Server, draw_rows, write_package

pytestmark = pytest.mark.xdist_group("serving")

COMMAND = [str(cli.script()), "score"]
TOLERANCE = 1e-6
"""of a score: the runtimes add up in another order where there are more rows"""
SCHEMA = {"distance": pl.Float64, "hour": pl.Int64, "wind": pl.Float64,
          "carrier": pl.String, "dest": pl.String}  # fmt: skip
BAD: list[dict[str, Any]] = [
    {"distance": float("nan")},
    {"distance": None},
    {"distance": -1.0},
    {"wind": float("nan")},
    {"wind": float("inf")},
    {"wind": 1e39},
    {"hour": 24},
    {"carrier": "XX"},
    {"carrier": None},
    {"distance": 1e6, "carrier": "xx"},
]


def main(arguments: list[str]) -> int:
    return cli.main(["score", *arguments])


def frame(rows: list[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=SCHEMA)


@pytest.fixture(scope="module")
def rows() -> pl.DataFrame:
    """Three batches, the last of them not full."""
    drawn = frame(draw_rows(signature("binary"), 5000))
    return pl.concat([drawn] * 8)[: 2 * BATCH_ROWS + 100]


def counts_of(printed: str) -> dict[str, Any]:
    return json.loads(printed.splitlines()[-1])


def test_scores_are_those_of_the_server(
    rows: pl.DataFrame,
    package: Callable[[Task], Path],
    server: Callable[[Task], Server],
    tmp_path: Path,
) -> None:
    few = rows[:3000]
    few.with_row_index("id").write_parquet(tmp_path / "rows.parquet")
    out = tmp_path / "scores.parquet"
    assert not main([str(package("binary")), str(tmp_path / "rows.parquet"), str(out)])
    found = pl.read_parquet(out)
    answer = server("binary").client.post("/predict", json={"rows": few.to_dicts()}).json()
    told = pl.DataFrame(answer["predictions"])
    np.testing.assert_allclose(found["score"], told["score"], rtol=0, atol=TOLERANCE)
    assert found["class"].equals(told["class"])
    assert found["id"].to_list() == found["row"].to_list() == list(range(3000))
    described = server("binary").client.get("/model").json()
    assert found["package"].unique().to_list() == [described["package"]]
    assert found["version"].unique().to_list() == [described["version"]] == [1]
    assert few.equals(found.select(few.columns))


def test_refusals_are_those_of_the_server(
    package: Callable[[Task], Path], server: Callable[[Task], Server], tmp_path: Path
) -> None:
    given = frame([ROW, *({**ROW, **change} for change in BAD), ROW])
    given.write_ipc(tmp_path / "rows.arrow")
    out, quarantine = tmp_path / "scores.parquet", tmp_path / "bad.parquet"
    assert not main(
        [str(package("binary")), str(tmp_path / "rows.arrow"), str(out),
         "--quarantine", str(quarantine), "--max-quarantined-share", "1"]
    )  # fmt: skip
    bad = pl.read_parquet(quarantine)
    body = given.write_ipc_stream(None, compression="uncompressed").getvalue()
    answer = server("binary").client.post("/predict", content=body, headers={"content-type": ARROW})
    assert answer.status_code == 422
    told: dict[int, list[str]] = {}
    for error in answer.json()["errors"]:
        told.setdefault(error["row"], []).append(f"{error['field']}: {error['message']}")
    assert dict(bad.select("row", "reason").rows()) == {
        row: "; ".join(messages) for row, messages in told.items()
    }
    assert bad["row"].to_list() == list(range(1, len(BAD) + 1))
    assert bad.select(*SCHEMA).equals(given[1:-1], null_equal=True)
    assert pl.read_parquet(out)["row"].to_list() == [0, len(given) - 1]


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_each_task_is_scored_as_by_the_model(
    task: Task, rows: pl.DataFrame, package: Callable[[Task], Path], tmp_path: Path
) -> None:
    rows.write_parquet(tmp_path / "rows.parquet", row_group_size=7000)
    out = tmp_path / "scores.parquet"
    assert not main([str(package(task)), str(tmp_path / "rows.parquet"), str(out)])
    found = pl.read_parquet(out)
    model = Model(package(task))
    told = model.predict(rows.to_dicts())
    scores = np.array([p["score"] for p in told], dtype=np.float32)
    np.testing.assert_allclose(
        np.stack(found["score"].to_list()), scores, rtol=TOLERANCE, atol=TOLERANCE
    )
    classes = [p.get("class") for p in told]
    assert ("class" in found.columns) == (task != "regression")
    assert task == "regression" or found["class"].to_list() == classes


def test_the_same_rows_in_any_form_give_the_same_file(
    rows: pl.DataFrame, package: Callable[[Task], Path], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "folder").mkdir()
    rows[:9000].write_parquet(tmp_path / "folder" / "a.parquet")
    rows[9000:].write_parquet(tmp_path / "folder" / "b.parquet")
    rows.write_parquet(tmp_path / "rows.parquet", row_group_size=999)
    known = rows.with_columns(pl.col("carrier", "dest").cast(pl.Categorical))
    known.write_ipc(tmp_path / "rows.arrow")
    rows.with_columns(key=pl.lit("007")).write_csv(tmp_path / "rows.csv")
    content = {}
    for name in ("folder", "rows.parquet", "rows.arrow", "rows.csv"):
        out = tmp_path / f"{name}.out.parquet"
        assert not main([str(package("binary")), str(tmp_path / name), str(out), "--json"])
        counts = counts_of(capsys.readouterr().out)
        assert counts["read"] == counts["scored"] == len(rows)
        content[name] = counts["content"], pl.read_parquet(out)["score"].to_list()
    assert content["folder"] == content["rows.parquet"]
    assert len({str(scores) for _, scores in content.values()}) == 1
    assert pl.read_parquet(tmp_path / "rows.csv.out.parquet")["key"].unique().to_list() == ["007"]


def test_torch_scores_where_there_is_no_onnx(
    rows: pl.DataFrame, package: Callable[[Task], Path], tmp_path: Path
) -> None:
    torch = write_package(tmp_path / "1", signature("binary"), onnx=False)
    rows.write_parquet(tmp_path / "rows.parquet")
    scores = []
    for chosen in (torch, package("binary")):
        assert not main(
            [str(chosen), str(tmp_path / "rows.parquet"), str(tmp_path / "out.parquet")]
        )
        scores.append(pl.read_parquet(tmp_path / "out.parquet")["score"])
    np.testing.assert_allclose(*scores, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: f.drop("hour"), "no column hour, which the model needs"),
        (
            lambda f: f.with_columns(pl.col("distance").cast(pl.String)),
            "distance: must be a column of numbers, not ",
        ),
        (lambda f: f.with_columns(carrier=1), "carrier: must be a column of strings, not int32"),
        (
            lambda f: f.with_columns(carrier=pl.lit("XX")),
            "10 of 10 rows do not fit the signature, more than 1.00%; row 0: carrier: must be one "
            "of AA, B6, UA. All of them are in ",
        ),
        (
            lambda f: f.with_columns(
                distance=pl.when(pl.int_range(pl.len()) == 3)
                .then(float("nan"))
                .otherwise("distance")
            ),
            "1 of 10 rows do not fit the signature, more than 1.00%; row 3: distance: is NaN; must",
        ),
        (lambda f: f.clear(), "rows.parquet: no rows"),
        (lambda f: f.with_columns(score=0), "column score: the output has one of this name"),
    ],
    ids=["column", "numbers", "strings", "category", "nan", "empty", "taken"],
)
def test_bad_rows_end_with_one_message(
    change: Callable[[pl.DataFrame], pl.DataFrame], said: str, rows: pl.DataFrame,
    package: Callable[[Task], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    change(rows[:10]).write_parquet(tmp_path / "rows.parquet")
    out = tmp_path / "out.parquet"
    out.write_text("before")
    assert main([str(package("binary")), str(tmp_path / "rows.parquet"), str(out)]) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ") and said in printed.err and not printed.out
    assert printed.err.count("\n") == 1
    assert out.read_text() == "before"
    left = {path.name for path in tmp_path.iterdir()}
    assert left - {"out.quarantine.parquet"} == {"rows.parquet", "out.parquet"}


def test_what_is_no_input(
    rows: pl.DataFrame, package: Callable[[Task], Path], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "rows.xlsx").touch()
    (tmp_path / "rows.csv").write_text(",".join(SCHEMA) + "\nfar,17,,AA,\n")
    (tmp_path / "folder").mkdir()
    rows.write_parquet(tmp_path / "folder" / "a.parquet")
    rows.with_columns(id=1).write_parquet(tmp_path / "folder" / "b.parquet")
    for name, said in {
        "none.parquet": "no such file or folder",
        "torn.parquet": "torn.parquet: cannot be read: ",
        "rows.xlsx": "must be a file of a known kind (.parquet, ",
        "rows.csv": "invalid value 'far'",
        "folder": "b.parquet: its columns or their types differ from ",
    }.items():
        arguments = [str(package("binary")), str(tmp_path / name), str(tmp_path / "out")]
        assert main(arguments) == 1
        printed = capsys.readouterr().err
        assert said in printed and printed.count("\n") == 1, name
    (tmp_path / "folder" / "b.parquet").unlink()
    for out in ("out.csv", "out"):  # whose quarantine would be that of out.parquet, too
        assert main([str(package("binary")), str(tmp_path / "folder"), str(tmp_path / out)]) == 1
        assert "choose a name that ends in .parquet" in capsys.readouterr().err
    into_itself = [str(tmp_path / "folder"), str(tmp_path / "folder" / "c.parquet")]
    assert main([str(package("binary")), *into_itself]) == 1
    assert "lies in the input" in capsys.readouterr().err


def test_a_package_that_cannot_be_used(
    rows: pl.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows[:10].write_parquet(tmp_path / "rows.parquet")
    changed = write_package(tmp_path / "1", signature("binary"), onnx=False)
    with (changed / "model_card.md").open("a") as card:
        card.write("changed")
    for package, said in {
        changed: "model_card.md: changed",
        tmp_path / "2": "No such file",
    }.items():
        arguments = [str(package), str(tmp_path / "rows.parquet"), str(tmp_path / "out.parquet")]
        assert main(arguments) == 1
        printed = capsys.readouterr().err
        assert said in printed and printed.count("\n") == 1
    assert not (tmp_path / "out.parquet").exists()


def test_a_score_that_is_no_number_is_the_models_fault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    class Pole(torch.nn.Module):
        def forward(self, numbers: torch.Tensor, categories: torch.Tensor) -> torch.Tensor:
            return 1 / (2 - numbers[:, 0]) + 0 * categories.sum(1)

    given = Signature(task="regression", target="late", inputs=(
        Number(name="wind"), *signature("binary").categories))  # fmt: skip
    package = write_package(tmp_path / "1", given, onnx=False, graph=Pole())
    frame([{**ROW, "wind": 1.0}, {**ROW, "wind": 2.0}]).write_parquet(tmp_path / "rows.parquet")
    out = tmp_path / "out.parquet"
    assert main([str(package), str(tmp_path / "rows.parquet"), str(out)]) == 1
    assert "row 1 scores inf: the model is at fault" in capsys.readouterr().err
    assert not out.exists()


def test_an_output_that_cannot_be_written(
    rows: pl.DataFrame, package: Callable[[Task], Path], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    rows.write_parquet(tmp_path / "rows.parquet")
    given = [str(package("binary")), str(tmp_path / "rows.parquet")]
    (tmp_path / "file").touch()
    assert main([*given, str(tmp_path / "file" / "out.parquet")]) == 1
    assert "cannot be written: Not a directory" in capsys.readouterr().err
    out = tmp_path / "out.parquet"
    out.write_text("before")
    # A limit of 100 kB on every file: the disk is full in the midst of the writing.
    full = ["bash", "-c", 'ulimit -f 100; exec "$@"', "-", *COMMAND, *given, str(out)]
    done = subprocess.run(full, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert "out.quarantine.parquet: cannot be written: File too large; nothing" in done.stderr
    assert out.read_text() == "before"
    assert {path.name for path in tmp_path.iterdir()} == {"file", "rows.parquet", "out.parquet"}


def test_ten_times_the_rows_take_no_more_memory_and_a_stop_leaves_nothing(
    rows: pl.DataFrame, package: Callable[[Task], Path], tmp_path: Path
) -> None:
    """Peaks of the whole process, of 98,000 rows and ten times as many in one row group."""
    small = pl.concat([rows] * 3)
    peaks = []
    for name, given in {"small": small, "large": pl.concat([small] * 10)}.items():
        given.write_parquet(tmp_path / f"{name}.parquet", row_group_size=len(given))
        running = start(package("binary"), tmp_path / f"{name}.parquet", tmp_path / "out.parquet")
        _, status, usage = os.wait4(running.pid, 0)
        running.returncode = status
        assert status == 0
        peaks.append(usage.ru_maxrss)
    assert peaks[1] <= 1.2 * peaks[0], peaks

    before = (tmp_path / "out.parquet").read_bytes()
    running = start(package("binary"), tmp_path / "large.parquet", tmp_path / "out.parquet")
    while running.poll() is None and not [*tmp_path.glob(".out.parquet.*")]:
        time.sleep(0.001)
    running.send_signal(signal.SIGTERM)
    assert running.wait(60) == 128 + signal.SIGTERM
    assert not [*tmp_path.glob(".*")]
    assert (tmp_path / "out.parquet").read_bytes() == before


def start(package: Path, given: Path, out: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*COMMAND, str(package), str(given), str(out)], stdout=subprocess.DEVNULL
    )
