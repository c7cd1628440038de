"""The pipeline of a rendered repo as `make train` runs it, on a few thousand real flights."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from pipeline.flights import MONTHS, ROWS, Registered, configure, materialize

from modelyard.documents import ReleaseEvent, UserError, verify_package
from modelyard.documents.package import MODEL
from modelyard.pipeline.config.gate import GatePolicy
from modelyard.pipeline.data.content import HASH
from modelyard.pipeline.data.tensors import encode
from modelyard.pipeline.evaluation.champion import RESULT, Evaluation, evaluate, read_evaluation
from modelyard.pipeline.evaluation.scoring import load
from modelyard.pipeline.orchestration.assets import show_deployment, watch_releases
from modelyard.pipeline.storage.workspace import Workspace
from modelyard.pipeline.training.workdir import WEIGHTS

pytestmark = pytest.mark.xdist_group("pipeline-repo")


@pytest.fixture
def changed(repo: Path, sample: Path, tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """The repo with a copy of the source that a test may spoil."""
    config = (repo / "config.yaml").read_text()
    source = tmp_path / "source"
    shutil.copytree(sample, source)
    configure(repo, source=f'"{source}"')
    yield repo, source
    (repo / "config.yaml").write_text(config)


def test_the_walk_ends_with_a_registered_version(registered: Registered) -> None:
    repo, printed = registered.repo, registered.printed
    state = repo / ".modelyard"
    last = json.loads((state / "last_train.json").read_text())
    assert (last["version"], last["rows"], last["ranks"]) == (1, 3 * ROWS, 2)
    assert 0.5 < last["metrics"]["auc"] < 0.8
    assert re.search(
        r"test AUC 0\.\d+ on 3,\d+ rows of 2013-03 to 2013-03; model version 1", printed
    )
    assert "epoch   1/6" in printed and "Traceback" not in printed

    manifest, signature, _ = verify_package(state / "packages" / "1")
    rows = manifest.rows
    assert rows["valid"] + rows["quarantined"] == rows["raw"] == 3 * ROWS
    assert re.fullmatch("[0-9a-f]{40}([+]dirty)?", manifest.git_commit)
    assert manifest.metrics == last["metrics"]

    reference = pl.read_parquet(state / "packages" / "1" / "reference.parquet")
    score = load(state / "packages" / "1" / "model.pt2")(*encode(reference, signature))
    np.testing.assert_allclose(reference["score"], score, atol=1e-6)
    inputs = [given.name for given in signature.inputs]
    assert pl.read_parquet(state / "data" / "replay.parquet").columns == inputs


def test_no_row_is_lost(registered: Registered) -> None:
    data = registered.repo / ".modelyard" / "data"
    for month in MONTHS:
        raw, valid, bad = (
            pl.read_parquet(data / stage / f"{month}.parquet")
            for stage in ("raw", "valid", "quarantine")
        )
        assert len(valid) + len(bad) == len(raw) == ROWS
        features = pl.read_parquet(data / "features" / f"{month}.parquet")
        assert len(features) == len(valid) - valid["arr_delay"].null_count()


@pytest.fixture(scope="module")
def released(registered: Registered) -> Iterator[Workspace]:
    """Version 1 serves."""
    workspace = Workspace(registered.repo)
    event = ReleaseEvent(
        time=1.0, release="first", sequence=0, candidate=1, stable=1, phase="done",
        weight=100, decision="bootstrapped",
    )  # fmt: skip
    workspace.releases.mkdir()
    (workspace.releases / "first.jsonl").write_text(event.model_dump_json() + "\n")
    yield workspace
    shutil.rmtree(workspace.releases)


@pytest.mark.slow
def test_a_challenger_that_is_worse_is_not_registered(released: Workspace) -> None:
    # Weights that have learnt it the wrong way round.
    path = released.training / WEIGHTS
    weights = torch.load(path, weights_only=True)
    last = max(name for name in weights if name.startswith("layers."))
    outputs = last.replace("bias", "weight")
    torch.save({**weights, outputs: -weights[outputs]}, path)
    code, printed = materialize(released.root, "--assets", 'key:"exported_model"+')
    assert code == 1
    assert "error: evaluation: gate: AUC " in printed
    assert "vs champion" in printed and "not shown to be non-inferior" in printed
    assert "Traceback" not in printed
    assert [p.name for p in released.registered(1).parent.iterdir()] == ["1"]
    assert json.loads((released.state / "last_train.json").read_text())["version"] == 1

    # Nor can it be packaged by asking for what comes after the gate.
    code, printed = materialize(released.root, "--assets", "model_package,model_version")
    assert code == 1 and "error: the model did not pass the gate: AUC " in printed
    assert [p.name for p in released.registered(1).parent.iterdir()] == ["1"]


@pytest.mark.parametrize("changed", ["model", "test set"])
def test_what_was_not_evaluated_is_not_packaged(changed: str, released: Workspace) -> None:
    model, result = released.evaluation / MODEL, released.evaluation / RESULT
    kept, newer = result.read_text(), result.stat().st_mtime - 1
    if changed == "model":
        other = {"model_hash": "0"}
        os.utime(model, (newer, newer))  # as a copy may have it
    else:
        other = {"test_hash": "0"}
    result.write_text(json.dumps({**json.loads(kept), **other}))
    try:
        with pytest.raises(UserError, match=f"the {changed} is another than the evaluated one"):
            read_evaluation(released)
    finally:
        result.write_text(kept)


def evaluate_again(workspace: Workspace, **changes: Any) -> Evaluation:
    """The model that was exported last, against the champion."""
    _, signature, _ = verify_package(workspace.package)
    return evaluate(workspace, signature.model_copy(update=changes), GatePolicy(resamples=200))


def test_the_champion_scores_the_same_rows(released: Workspace) -> None:
    found = evaluate_again(released)
    assert found.champion == 1 and found.gate.overall is not None
    champion, _, _ = verify_package(released.registered(1))
    assert found.gate.overall.champion == pytest.approx(champion.metrics["auc"])
    assert "another test set" not in found.gate.reason


def test_another_test_set_is_scored_again_and_said(released: Workspace) -> None:
    test = released.dataset("test")
    kept = test.read_bytes()
    pl.read_parquet(test)[:3000].write_parquet(test, metadata={HASH: "another"})
    found = evaluate_again(released)
    test.write_bytes(kept)
    assert found.rows == 3000 and found.test_hash == "another"
    assert "version 1 was made with another test set and scored this one again" in found.gate.reason


def test_a_champion_that_cannot_be_compared_with(released: Workspace) -> None:
    with pytest.raises(UserError, match="predicts 'late' .* the new model 'late' .*'later'"):
        evaluate_again(released, classes=("on time", "later"))
    (released.registered(1) / "model_card.md").rename(released.state / "card")
    with pytest.raises(UserError, match="model_card.md: missing"):
        evaluate_again(released)
    (released.state / "card").rename(released.registered(1) / "model_card.md")
    released.registered(1).rename(released.state / "away")
    with pytest.raises(UserError, match="`modelyard fetch 1`"):
        evaluate_again(released)
    (released.state / "away").rename(released.registered(1))


def test_the_lineage_ends_in_what_serves(released: Workspace) -> None:
    shown = show_deployment(released).metadata or {}
    assert shown["summary"] == "version 1 serves" and shown["decision"] == "bootstrapped"
    assert show_deployment(Workspace(released.root / "src")).metadata == {
        "summary": "nothing released yet",
        "decision": "none yet",
    }
    (request,) = watch_releases(released).run_requests or []
    assert request.run_key == "first:0"


@pytest.mark.slow
def test_a_flight_of_no_readable_month_is_quarantined_in_the_first(
    changed: tuple[Path, Path],
) -> None:
    repo, source = changed
    rows = pl.read_csv(source / "flights.csv", infer_schema=False, null_values="NA")
    month = pl.Series(["x", None, "01", "13", *rows["month"][4:]])
    rows.with_columns(month=month).write_csv(source / "flights.csv", null_value="NA")
    code, printed = materialize(repo, "--assets", "raw,valid,quarantine")
    assert code == 0, printed
    data = repo / ".modelyard" / "data"
    raw = [pl.read_parquet(data / "raw" / f"{month}.parquet") for month in MONTHS]
    assert sum(map(len, raw)) == len(rows)
    first = pl.read_parquet(data / "quarantine" / f"{MONTHS[0]}.parquet")
    assert set(first["month"]) >= {"x", None, "13"} and "01" not in set(first["month"])


def spoil(path: Path, change: Callable[[str], str]) -> None:
    path.write_text(change(path.read_text()))


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        pytest.param(
            "flights.csv",
            None,
            "no source file flights (looked for flights.csv, ",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "flights.csv",
            lambda t: t.replace("arr_delay", "delay", 1),
            "no column arr_delay; it has",
            marks=pytest.mark.slow,
        ),
        (
            "flights.csv",
            lambda t: re.sub(r"(?m)^(2013,2,1\d,.*),(EWR|LGA),", r"\1,XXX,", t),
            "XXX breaks isin(('EWR', 'JFK', 'LGA')). See .modelyard/data/quarantine/2013-02",
        ),
    ],
    ids=["missing", "wrong column", "too many bad rows"],
)
def test_a_spoilt_source_ends_with_one_message(
    file: str,
    change: Callable[[str], str] | None,
    message: str,
    changed: tuple[Path, Path],
) -> None:
    repo, source = changed
    if change:
        spoil(source / file, change)
    else:
        (source / file).unlink()
    code, printed = materialize(repo, "--assets", "raw,valid,quarantine,features")
    assert code == 1 and message in printed
    assert printed.count("error:") == 1 and "Traceback" not in printed
    assert not list((repo / ".modelyard" / "data").rglob(".*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--partitions", "2014-01"], "2014-01 is none of 2013-01 to 2013-03"),
        (["--assets", "wieghts"], "--assets wieghts: "),
    ],
)
def test_a_selection_of_nothing(arguments: list[str], message: str, repo: Path) -> None:
    code, printed = materialize(repo, *arguments)
    assert code == 1 and message in printed and "Traceback" not in printed


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("patience:", "patiense:", "config.yaml:{line}: training.patiense: "),
        ("hidden: [", "hidden: [-1, ", "config.yaml:{line}: training.hidden.0: "),
        ("ranks: 2", "ranks: 1000", "config.yaml: training.ranks: 1000 is more than 4 for each of"),
    ],
)
def test_a_mistake_in_the_settings(old: str, new: str, message: str, repo: Path) -> None:
    config = (repo / "config.yaml").read_text()
    spoilt = config.replace(old, new).replace("batch_rows: 200", "batch_rows: 2000")
    (repo / "config.yaml").write_text(spoilt)
    code, printed = materialize(repo)
    (repo / "config.yaml").write_text(config)
    line = config[: config.index(old)].count("\n") + 1
    assert code == 1 and message.format(line=line) in printed, printed
    assert "raw" not in printed and "Traceback" not in printed
