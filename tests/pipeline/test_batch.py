"""`make predict` in a rendered repo: the asset `predictions`, its checks, a file of one's own."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import pytest
from pipeline.flights import MONTHS
from support import run

from modelyard.cli import script
from modelyard.documents import ReleaseEvent, Signature
from modelyard.documents.signature import Number
from modelyard.pipeline.config.settings import PredictionSettings
from modelyard.pipeline.orchestration.prediction_checks import checked, shift
from modelyard.pipeline.orchestration.run import ALL, _select
from modelyard.pipeline.storage.workspace import Workspace
from modelyard.serving.testing import serve, write_package

pytestmark = pytest.mark.xdist_group("pipeline-batch")
MONTH = MONTHS[0]
SIGNATURE = "from flight_delay.features import SIGNATURE; print(SIGNATURE.model_dump_json())"


def environment(repo: Path) -> dict[str, str]:
    return {"PYTHONPATH": str(repo / "src"), "DAGSTER_HOME": str(repo / ".dagster")}


def predict(repo: Path, *arguments: str) -> tuple[int, str]:
    """`make predict`: (exit code, what it printed, both streams)."""
    done = subprocess.run(
        [script(), "predict", *arguments],
        cwd=repo, env={**os.environ, **environment(repo)}, text=True, timeout=240,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    return done.returncode, done.stdout


@pytest.fixture(scope="module")
def predicted(repo: Path) -> tuple[Workspace, str]:
    """A repo that serves version 1, after its first `make predict`; what that printed.

    Version 2 takes fewer rows, version 3 wants an input that there is not. None was trained.
    """
    text = run(sys.executable, "-c", SIGNATURE, cwd=repo, check=True, **environment(repo))
    signature = Signature.model_validate_json(text)
    workspace = Workspace(repo)
    short = [
        given.model_copy(update={"maximum": 1000}) if given.name == "distance" else given
        for given in signature.inputs
    ]
    inputs = [signature.inputs, short, (*signature.inputs, Number(name="fare"))]
    for version, wanted in enumerate(inputs, start=1):
        own = signature.model_copy(update={"inputs": tuple(wanted)})
        write_package(workspace.registered(version), own, "flight-delay", onnx=version == 1)
    event = ReleaseEvent(
        time=1.0, release="first", sequence=0, candidate=1, stable=1, phase="done",
        weight=100, decision="bootstrapped",
    )  # fmt: skip
    workspace.releases.mkdir(parents=True)
    (workspace.releases / "first.jsonl").write_text(event.model_dump_json() + "\n")
    code, printed = predict(repo, "--partitions", f"{MONTHS[0]}...{MONTHS[1]}")
    assert code == 0, printed
    return workspace, printed


def stored(workspace: Workspace, month: str = MONTH) -> tuple[pl.DataFrame, pl.DataFrame]:
    stages = ("predictions", "predictions_quarantine")
    scored, refused = (pl.read_parquet(workspace.partition(stage, month)) for stage in stages)
    return scored, refused


def test_every_valid_row_is_scored_by_what_serves(predicted: tuple[Workspace, str]) -> None:
    workspace, printed = predicted
    assert f"of {MONTHS[0]} to {MONTHS[1]} by version 1" in printed
    assert "none is lost" in printed and "raw" in printed, "the data was not there yet"
    for month in MONTHS[:2]:
        valid = pl.read_parquet(workspace.partition("valid", month))
        scored, refused = stored(workspace, month)
        assert len(scored) == len(valid) and refused.is_empty()
        assert valid["arr_delay"].null_count(), "flights that never arrived are scored, too"
        assert scored.select("scheduled_hour", "flight", "carrier", "origin").equals(
            valid.select("scheduled_hour", "flight", "carrier", "origin")
        )
        assert scored["version"].unique().to_list() == [1]
        assert "late" not in scored.columns
    assert not workspace.partition("predictions", MONTHS[2]).exists()
    assert not [*workspace.state.glob(".*")]


def test_scores_are_those_of_the_server(predicted: tuple[Workspace, str]) -> None:
    workspace, _ = predicted
    scored = stored(workspace)[0][:2000]
    package = workspace.registered(1)
    names = [i.name for i in Signature.model_validate_json(
        (package / "signature.json").read_bytes()).inputs]  # fmt: skip
    rows = scored.select(names).to_dicts()
    with serve(workspace.root / "bentos" / "service.py", package) as server:
        answer = server.client.post("/predict", json={"rows": rows})
        described = server.client.get("/model").json()
    told = pl.DataFrame(answer.json()["predictions"])
    np.testing.assert_allclose(scored["score"], told["score"], rtol=0, atol=1e-6)
    assert scored["class"].equals(told["class"])
    assert scored["package"].unique().to_list() == [described["package"]]


@pytest.mark.slow
def test_the_data_version_is_the_hash_of_what_was_written(
    predicted: tuple[Workspace, str],
) -> None:
    workspace, _ = predicted
    before = workspace.partition("predictions", MONTH).read_bytes()
    code, printed = predict(workspace.root, "--partitions", MONTH)
    assert code == 0 and "raw" not in printed, printed
    assert workspace.partition("predictions", MONTH).read_bytes() == before
    with dg.DagsterInstance.from_config(str(workspace.root / ".dagster")) as instance:
        made = instance.get_latest_materialization_event(dg.AssetKey("predictions"))
    assert made and made.asset_materialization
    tags = made.asset_materialization.tags or {}
    assert tags["dagster/data_version"] == hashlib.sha256(before).hexdigest()


@pytest.mark.slow
def test_rows_that_do_not_fit_are_kept_apart_and_fail_the_check(
    predicted: tuple[Workspace, str],
) -> None:
    workspace, _ = predicted
    before = stored(workspace)[0]
    code, printed = predict(workspace.root, "--partitions", MONTH, "--version", "2")
    assert code == 1 and "Traceback" not in printed and printed.count("error:") == 1
    scored, refused = stored(workspace)
    assert f"{len(refused):,} of {len(before):,} rows (" in printed
    assert "more than predictions.max_quarantined_share (1.00%): row " in printed
    assert "distance: must be at least 0 and at most 1000, not " in printed
    assert len(scored) + len(refused) == len(before)
    assert (refused["distance"] > 1000).all() and (scored["distance"] <= 1000).all()
    assert refused["reason"].str.starts_with("distance: must be ").all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "version", "said"),
    [
        ("", "9", "version 9 of flight-delay is not registered; there are 1, 2, 3"),
        ("", "3", f"version 3: features of {MONTH}: no column fare, which the model needs"),
        ("releases", "0", "no version to predict with: nothing was released from here, and"),
        ("packages/2/model_card.md", "2", "model_card.md: missing; take the package from"),
    ],
    ids=["unknown", "other inputs", "nothing released", "damaged"],
)
def test_one_message_and_nothing_changed(
    change: str, version: str, said: str, predicted: tuple[Workspace, str], tmp_path: Path
) -> None:
    workspace, _ = predicted
    files = [
        workspace.partition(stage, MONTH) for stage in ("predictions", "predictions_quarantine")
    ]
    before = [path.read_bytes() for path in files]
    release = workspace.root / "argo" / "release.yaml"
    text = release.read_text()
    release.write_text(text.replace("version: 1", "version: 8"))
    if change:
        shutil.move(workspace.state / change, tmp_path / "away")
    code, printed = predict(workspace.root, "--partitions", MONTH, "--version", version)
    ran = "predictions …" in printed
    release.write_text(text)
    if change:
        shutil.move(tmp_path / "away", workspace.state / change)
    assert code == 1 and said in printed, printed
    assert ran == (version in "23"), "a version that is not there turns no asset red"
    assert printed.count("error:") == 1 and "Traceback" not in printed
    assert [path.read_bytes() for path in files] == before


@pytest.mark.slow
def test_a_file_of_ones_own(predicted: tuple[Workspace, str], tmp_path: Path) -> None:
    workspace, _ = predicted
    given, out = tmp_path / "my rows.parquet", tmp_path / "my scores.parquet"
    features = stored(workspace)[0].drop("row", "score", "class", "version", "package")
    features.write_parquet(given)
    make = ["make", "predict", f"VENV={sys.prefix}", f"INPUT={given}", f"OUTPUT={out}"]
    printed = run(*make, "VERSION=1", cwd=workspace.root)
    assert f"{len(features):,} rows scored in " in printed
    assert len(pl.read_parquet(out)) == len(features)
    code, printed = predict(workspace.root, "--input", str(given))
    assert code == 1 and "INPUT=… and OUTPUT=…" in printed


@pytest.fixture
def checks(predicted: tuple[Workspace, str], tmp_path: Path) -> Iterator[Any]:
    """The three checks of what stands in a workspace of one's own."""
    own = Workspace(tmp_path)
    for stage in ("valid", "predictions", "predictions_quarantine"):
        path = own.partition(stage, MONTH)
        path.parent.mkdir(parents=True)
        shutil.copy(predicted[0].partition(stage, MONTH), path)

    def check(**limits: float) -> dict[str, dg.AssetCheckResult]:
        package = predicted[0].registered(1)
        reasons = {MONTH: "row 3: hour: is missing"}
        found = checked(own, package, reasons, PredictionSettings(**limits))
        return {str(result.check_name): result for result in found}

    yield own, check


def test_a_lost_row_fails_its_check(checks: Any) -> None:
    own, check = checks
    path = own.partition("predictions", MONTH)
    assert check()["every_row"].passed
    pl.read_parquet(path)[1:].write_parquet(path)
    lost = check()["every_row"]
    assert not lost.passed and "features() must give a row for each" in lost.description


def test_a_shift_of_the_scores_is_a_warning(checks: Any) -> None:
    _, check = checks
    # Real rows, where the reference is of drawn ones.
    found = check(max_score_shift=0)["score_shift"]
    assert not found.passed and found.severity == dg.AssetCheckSeverity.WARN
    assert "more than predictions.max_score_shift (0)" in found.description


def test_the_index_of_a_shift() -> None:
    source = np.random.default_rng(0)
    reference = pl.DataFrame({"score": source.normal(size=5000)})

    def index(scores: np.ndarray) -> float:
        return shift(reference, pl.LazyFrame({"score": scores}))

    assert index(source.normal(size=200)) < 0.1, "chance alone"
    assert 0.1 < index(source.normal(0.5, 1, size=5000)) < 0.5
    assert index(np.full(100, 9.0)) > 2
    classes = pl.DataFrame({"score_a": reference["score"], "score_b": -reference["score"]})
    lists = pl.LazyFrame({"score": classes.to_numpy()}, schema={"score": pl.Array(pl.Float64, 2)})
    assert shift(classes, lists.cast(pl.List(pl.Float64))) == 0


def test_predictions_are_left_out_until_they_are_asked_for() -> None:
    @dg.asset
    def raw() -> None: ...

    @dg.asset(deps=[raw])
    def predictions_to_come() -> None: ...

    @dg.asset(deps=[raw, predictions_to_come], group_name="predictions")
    def predictions() -> None: ...

    definitions = dg.Definitions([raw, predictions_to_come, predictions])

    def chosen(assets: str) -> set[str]:
        return {key.to_user_string() for key in _select(definitions, assets)}

    others = {"raw", "predictions_to_come"}
    assert chosen(ALL) == chosen('key:"raw"+') == others
    assert chosen('key:"predictions_to_come"+') == {"predictions_to_come"}
    assert chosen('raw+,key:"predictions"') == {*others, "predictions"}
    assert chosen('+key:"predictions"') == {*others, "predictions"}
    assert chosen('key:"predictions" or +key:"raw"') == {"raw", "predictions"}
    assert chosen("predictions") == chosen('group:"predictions"') == {"predictions"}
