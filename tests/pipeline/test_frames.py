"""Feature partitions, their hashes, the split by time and the replayed rows."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.documents import Signature, UserError
from modelyard.documents.files import replaced, replaced_folder
from modelyard.documents.signature import Category, Number
from modelyard.pipeline.config.settings import Months
from modelyard.pipeline.data.content import content_hash, stored_hash
from modelyard.pipeline.data.features import write_features
from modelyard.pipeline.data.splits import join_partitions, write_replay
from modelyard.pipeline.data.tensors import Arrays, encode, write_arrays
from modelyard.pipeline.storage.workspace import Workspace

SIGNATURE = Signature(
    task="binary",
    target="y",
    classes=("no", "yes"),
    inputs=(
        Number(name="a", minimum=0, nullable=True),
        Category(name="k", values=("p", "q")),
        Category(name="open", values=("r",), open=True, nullable=True),
    ),
)


def frame(rows: int = 6, start: int = 0) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "a": [None if i % 3 == 2 else float(start + i) for i in range(rows)],
            "k": ["pq"[i % 2] for i in range(rows)],
            "open": [("r", "strange", None)[i % 3] for i in range(rows)],
            "y": [None if i == 5 else i % 2 for i in range(rows)],
        },
        schema={"a": pl.Float64, "k": pl.String, "open": pl.String, "y": pl.Int8},
    )


def features(path: Path, rows: pl.DataFrame) -> tuple[int, int]:
    rows.write_parquet(path.with_suffix(".valid"))
    return write_features(path.with_suffix(".valid"), path, lambda valid: valid, SIGNATURE)


def test_rows_without_a_target_are_counted_and_left_out(tmp_path: Path) -> None:
    path = tmp_path / "2013-01.parquet"
    assert features(path, frame()) == (5, 1)
    assert pl.read_parquet(path)["y"].null_count() == 0


def test_the_hash_is_of_the_content_alone(tmp_path: Path) -> None:
    whole = frame(40)
    chunked = pl.concat([whole[:7], whole[7:]], rechunk=False)
    assert content_hash(whole) == content_hash(chunked)
    assert content_hash(whole) != content_hash(whole.with_columns(pl.col("y") + 1))
    assert content_hash(whole) != content_hash(whole.rename({"a": "b"}))
    features(tmp_path / "2013-01.parquet", whole)
    first = stored_hash(tmp_path / "2013-01.parquet")
    features(tmp_path / "2013-01.parquet", whole)
    assert stored_hash(tmp_path / "2013-01.parquet") == first


@given(
    st.lists(
        st.tuples(
            st.none() | st.integers(0, 3),
            st.none() | st.text("ab", max_size=20),
            st.none() | st.booleans(),
        )
    ),
    st.integers(0, 9),
)
def test_the_hash_does_not_know_how_a_frame_was_put_together(rows: list, cut: int) -> None:
    schema = {"n": pl.Int64, "t": pl.String, "b": pl.Boolean}
    whole = pl.DataFrame(rows, schema=schema, orient="row")
    under = {"n": 9, "t": "under a null", "b": True}
    filled = whole.with_columns(pl.col(name).fill_null(value) for name, value in under.items())
    there = whole.select(pl.all().is_not_null())
    masked = filled.select(pl.when(there[name]).then(name).alias(name) for name in whole.columns)
    sliced = pl.concat([filled, whole], rechunk=True)[len(rows) :]
    joined = pl.concat([whole[:cut], whole[cut:]], rechunk=False)
    for same in (masked, sliced, joined, joined.rechunk()):
        assert same.equals(whole) and content_hash(same) == content_hash(whole)


def test_the_hash_tells_missing_values_apart() -> None:
    hashes = {content_hash(pl.DataFrame({"a": v, "b": [1, 1]})) for v in ([1, None], [None, 1])}
    assert len(hashes) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (pl.lit(float("inf")).alias("a"), r"a has inf, outside of its declaration"),
        (pl.lit("z").alias("k"), "k has 'z', which its declaration does not list"),
        (pl.lit(None, pl.String).alias("k"), "k is missing in 6 rows"),
        (pl.lit(-1.0).alias("a"), r"a has -1.0, outside of its declaration"),
    ],
)
def test_values_outside_of_the_declaration(change: pl.Expr, message: str, tmp_path: Path) -> None:
    path = tmp_path / "2013-01.parquet"
    with pytest.raises(UserError, match=message):
        features(path, frame().with_columns(change))
    assert not path.exists()


def test_an_input_that_the_features_do_not_give(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="features of 2013-01: no column k"):
        features(tmp_path / "2013-01.parquet", frame().drop("k"))


def test_months_are_joined_in_order_of_time(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    months = Months.model_validate({"from": "2012-12", "to": "2013-01"})
    assert list(months) == ["2012-12", "2013-01"]
    for start, month in enumerate(months):
        path = workspace.partition("features", month)
        path.parent.mkdir(parents=True, exist_ok=True)
        features(path, frame(5, start * 100))
    rows, digest = join_partitions(workspace, months, "test")
    test = pl.read_parquet(workspace.dataset("test"))
    assert rows == len(test) == 10 and test["a"].drop_nulls().is_sorted()
    assert stored_hash(workspace.dataset("test")) == digest

    assert write_replay(workspace, SIGNATURE, rows=8) == 8
    replay = pl.read_parquet(workspace.dataset("replay"))
    assert replay.columns == ["a", "k", "open"]
    write_replay(workspace, SIGNATURE, rows=8)
    assert replay.equals(pl.read_parquet(workspace.dataset("replay")))


def test_a_month_without_features(tmp_path: Path) -> None:
    months = Months.model_validate({"from": "2013-01", "to": "2013-02"})
    with pytest.raises(UserError, match="train months 2013-01, 2013-02 have no features yet"):
        join_partitions(Workspace(tmp_path), months, "train")


def test_missing_and_unknown_values_have_the_code_0() -> None:
    numbers, categories = encode(frame(4), SIGNATURE)
    assert numbers.dtype == np.float32 and categories.dtype == np.int64
    np.testing.assert_array_equal(numbers[:, 0], [0, 1, np.nan, 3])
    assert categories.tolist() == [[1, 1], [2, 0], [1, 0], [2, 1]]
    with pytest.raises(UserError, match="no column a, open"):
        encode(frame().select("k"), SIGNATURE)


def test_arrays_are_written_chunk_by_chunk(tmp_path: Path) -> None:
    known = frame(50).drop_nulls("y")
    known.write_parquet(tmp_path / "train.parquet")
    assert write_arrays(tmp_path / "train.parquet", SIGNATURE, tmp_path / "train") == 49
    arrays = Arrays.mapped(tmp_path / "train")
    numbers, categories = encode(known, SIGNATURE)
    np.testing.assert_array_equal(arrays.numbers, numbers)
    np.testing.assert_array_equal(arrays.categories, categories)
    assert arrays.target.dtype == np.float32 and arrays.target.tolist() == known["y"].to_list()


def test_a_file_or_folder_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "old").touch()
    with pytest.raises(RuntimeError), replaced(tmp_path / "file") as new:
        new.write_text("half")
        raise RuntimeError
    with pytest.raises(RuntimeError), replaced_folder(tmp_path / "folder") as new:
        (new / "half").touch()
        raise RuntimeError
    assert (tmp_path / "file").read_text() == "old"
    assert [p.name for p in (tmp_path / "folder").iterdir()] == ["old"]
    with replaced_folder(tmp_path / "folder") as new:
        (new / "new").touch()
    assert [p.name for p in (tmp_path / "folder").iterdir()] == ["new"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


KILLED = """
import os, signal, sys
from pathlib import Path
from modelyard.documents.files import replaced_folder

rename, done = os.rename, []

def killed_at_the_second(*paths):
    if done:
        os.kill(os.getpid(), signal.SIGKILL)
    done.append(rename(*paths))

os.rename = killed_at_the_second
with replaced_folder(Path(sys.argv[1])) as new:
    (new / "new").touch()
"""


def test_a_folder_comes_back_after_a_kill_between_two_renames(tmp_path: Path) -> None:
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "old").touch()
    done = subprocess.run([sys.executable, "-c", KILLED, str(folder)])
    assert done.returncode == -signal.SIGKILL and not folder.exists()
    with pytest.raises(RuntimeError), replaced_folder(folder):
        raise RuntimeError
    assert [p.name for p in folder.iterdir()] == ["old"]
    for left in tmp_path.glob(".package.*"):
        os.utime(left, (0, 0))
    with replaced_folder(folder) as new:
        (new / "newer").touch()
    assert [p.name for p in tmp_path.iterdir()] == ["package"]
    assert [p.name for p in folder.iterdir()] == ["newer"]
