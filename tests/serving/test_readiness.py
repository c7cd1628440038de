"""What keeps a server from getting ready, and how it says so."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from modelyard.documents import Manifest, UserError, write_manifest
from modelyard.documents.signature import Task
from modelyard.serving.inference.model import Model
from modelyard.serving.inference.runtime import runtime_of
from modelyard.serving.testing import draw_rows, serve

pytestmark = pytest.mark.xdist_group("serving")


@pytest.fixture
def copy(tmp_path: Path, package: Callable[[Task], Path]) -> Callable[[Task], Path]:
    def of(task: Task) -> Path:
        return Path(shutil.copytree(package(task), tmp_path / "packages" / "3"))

    return of


def sign_again(package: Path) -> None:
    """A manifest for the files as they are now: damage that no hash shows."""
    manifest = Manifest.model_validate_json((package / "manifest.json").read_bytes())
    write_manifest(package, manifest)


def plant_skew(package: Path, column: str, by: float) -> None:
    path = package / "reference.parquet"
    pl.read_parquet(path).with_columns(pl.col(column) + by).write_parquet(path)
    sign_again(package)


def test_a_skewed_package_never_gets_ready(copy: Callable[[Task], Path], service: Path) -> None:
    """The process lives and says why; it takes no request."""
    package = copy("binary")
    plant_skew(package, "score", 0.01)
    with serve(service, package, path="/livez") as running:
        client = running.client
        assert client.get("/readyz").status_code == 503
        for answer in (client.get("/model"), client.post("/predict", json={"rows": [{}]})):
            assert answer.status_code == 503
            assert "training and serving differ" in answer.json()["error"]
        assert "not ready, and will not be" in running.log
        assert "Traceback" not in running.log


@pytest.mark.parametrize(
    ("task", "column", "by"),
    [("binary", "score", 0.0005), ("multiclass", "score_lost", 0.0005), ("regression", "score", 1)],
)
def test_the_self_check_sees_a_skew_of_each_task(
    task: Task, column: str, by: float, copy: Callable[[Task], Path]
) -> None:
    package = copy(task)
    Model(package)
    plant_skew(package, column, by)
    with pytest.raises(UserError, match="training and serving differ"):
        Model(package)


def test_a_category_table_in_another_order_is_a_skew(copy: Callable[[Task], Path]) -> None:
    package = copy("binary")
    path = package / "signature.json"
    swapped = path.read_text().replace('"AA"', '"?"').replace('"UA"', '"AA"')
    path.write_text(swapped.replace('"?"', '"UA"'))
    sign_again(package)
    with pytest.raises(UserError, match="self-check failed"):
        Model(package)


def test_scores_that_are_not_finite_fail_the_self_check(copy: Callable[[Task], Path]) -> None:
    package = copy("regression")
    plant_skew(package, "score", float("nan"))
    with pytest.raises(UserError, match="self-check failed"):
        Model(package)


def test_a_reference_that_breaks_the_contract(copy: Callable[[Task], Path]) -> None:
    package = copy("binary")
    path = package / "reference.parquet"
    pl.read_parquet(path).with_columns(hour=pl.lit(25)).write_parquet(path)
    sign_again(package)
    with pytest.raises(UserError, match="self-check failed: row 0: hour: must be at least 0"):
        Model(package)


@pytest.mark.parametrize("content", [b"not parquet", None])
def test_a_reference_that_cannot_be_read(
    content: bytes | None, copy: Callable[[Task], Path]
) -> None:
    package = copy("binary")
    if content is None:
        frame = pl.read_parquet(package / "reference.parquet")
        frame.clear().write_parquet(package / "reference.parquet")
    else:
        (package / "reference.parquet").write_bytes(content)
    sign_again(package)
    with pytest.raises(UserError, match="self-check failed"):
        Model(package)


@pytest.mark.parametrize("file", ["model.onnx", "model.pt2"])
def test_a_graph_that_cannot_be_loaded(file: str, copy: Callable[[Task], Path]) -> None:
    package = copy("binary")
    (package / "model.onnx").unlink()
    (package / file).write_bytes(b"nothing")
    sign_again(package)
    with pytest.raises(UserError, match=f"can't load {file}"):
        Model(package)


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_both_runtimes_pass_the_self_check(task: Task, copy: Callable[[Task], Path]) -> None:
    package = copy(task)
    assert runtime_of(package) == "onnxruntime"
    onnx = Model(package)
    (package / "model.onnx").unlink()
    sign_again(package)
    assert runtime_of(package) == "torch"
    rows = draw_rows(onnx.signature, 50)
    assert onnx.scores(rows) == pytest.approx(Model(package).scores(rows), abs=1e-5)


@pytest.mark.slow
def test_a_setting_that_is_no_number_keeps_a_server_from_getting_ready(
    package: Callable[[Task], Path], service: Path
) -> None:
    for name in ("MODELYARD_PREDICTION_LOG_FLUSH", "MODELYARD_DRAIN"):
        with serve(service, package("binary"), path="/livez", **{name: "soon"}) as running:
            assert f"{name}=soon: must be seconds" in running.client.get("/model").json()["error"]


def test_a_changed_file_is_named(copy: Callable[[Task], Path]) -> None:
    package = copy("binary")
    with (package / "model.pt2").open("ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match="model.pt2: changed"):
        Model(package)


def test_without_a_package_serving_ends_with_one_message(tmp_path: Path, service: Path) -> None:
    (tmp_path / "bentos").mkdir()
    alone = Path(shutil.copy(service, tmp_path / "bentos"))
    with pytest.raises(RuntimeError) as ended, serve(alone):
        pass
    assert "no model package" in str(ended.value) and "make train" in str(ended.value)
    assert "Traceback" not in str(ended.value)


def test_arrow_does_not_bring_pandas_but_who_wants_it_has_it() -> None:
    code = """
import sys
from modelyard.serving.observability import memory
memory.keep_pandas_out()
import pyarrow as pa
table = pa.table({"a": pa.array(["b"])})
assert table.to_pylist() and "pandas" not in sys.modules
assert table.to_pandas().shape == (1, 1) and "pandas" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
