"""The pipeline of a rendered repo as `make train` runs it, on a few thousand real flights."""

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest
from pipeline.flights import MONTHS, ROWS, configure, materialize

from modelyard.documents import ReleaseEvent, verify_package
from modelyard.pipeline.arrays import encode
from modelyard.pipeline.export import load

pytestmark = pytest.mark.xdist_group("pipeline-repo")


@pytest.fixture(scope="module")
def trained(repo: Path) -> tuple[Path, str]:
    """The repo after its first training, and what that printed."""
    code, printed = materialize(repo)
    assert code == 0, printed
    return repo, printed


@pytest.fixture
def changed(repo: Path, sample: Path, tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """The repo with a copy of the source that a test may spoil."""
    config = (repo / "config.yaml").read_text()
    source = tmp_path / "source"
    shutil.copytree(sample, source)
    configure(repo, source=f'"{source}"')
    yield repo, source
    (repo / "config.yaml").write_text(config)


def test_the_walk_ends_with_a_registered_version(trained: tuple[Path, str]) -> None:
    repo, printed = trained
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
    assert (reference["score"] - pl.Series(score)).abs().max() < 1e-6
    inputs = [given.name for given in signature.inputs]
    assert pl.read_parquet(state / "data" / "replay.parquet").columns == inputs


def test_no_row_is_lost(trained: tuple[Path, str]) -> None:
    data = trained[0] / ".modelyard" / "data"
    for month in MONTHS:
        raw, valid, bad = (
            pl.read_parquet(data / stage / f"{month}.parquet")
            for stage in ("raw", "valid", "quarantine")
        )
        assert len(valid) + len(bad) == len(raw) == ROWS
        features = pl.read_parquet(data / "features" / f"{month}.parquet")
        assert len(features) == len(valid) - valid["arr_delay"].null_count()


def test_a_challenger_that_is_worse_is_not_registered(trained: tuple[Path, str]) -> None:
    repo, _ = trained
    state = repo / ".modelyard"
    (state / "releases").mkdir()
    event = ReleaseEvent(
        time=time.time(), release="first", sequence=0, candidate=1, stable=1, phase="done",
        weight=100, decision="bootstrapped",
    )  # fmt: skip
    record = state / "releases" / "first.jsonl"
    record.write_text(event.model_dump_json() + "\n")
    config = (repo / "config.yaml").read_text()
    try:
        code, printed = materialize(repo, "--assets", "deployed_version")
        assert code == 0 and "version 1 serves" in printed

        configure(repo, learning_rate="1.0e-9")
        code, printed = materialize(repo, "--assets", 'key:"weights"+')
        assert code == 1
        assert "error: evaluation: gate: AUC " in printed
        assert "vs champion" in printed and "not shown to be non-inferior" in printed
        assert "Traceback" not in printed
        assert [p.name for p in (state / "packages").iterdir()] == ["1"]
        assert json.loads((state / "last_train.json").read_text())["version"] == 1

        shutil.rmtree(state / "packages" / "1" / "plots")
        code, printed = materialize(repo, "--assets", "evaluation")
        assert code == 1 and "plots/" in printed and "missing" in printed
    finally:
        (repo / "config.yaml").write_text(config)
        shutil.rmtree(state / "releases")


def spoil(path: Path, change: Callable[[str], str]) -> None:
    path.write_text(change(path.read_text()))


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("flights.csv", None, "no source file flights (looked for flights.csv, "),
        ("flights.csv", lambda t: t[: t.rindex(",N")], "flights.csv: cut short: its last row has"),
        (
            "flights.csv",
            lambda t: t.replace("arr_delay", "delay", 1),
            "no column arr_delay; it has",
        ),
        ("flights.csv", lambda t: re.sub(r"(?m)^2013,3,.*\n", "", t), "no rows of 2013-03"),
        (
            "flights.csv",
            lambda t: re.sub(r"(?m)^(2013,2,1\d,.*),(EWR|LGA),", r"\1,XXX,", t),
            "XXX breaks isin(('EWR', 'JFK', 'LGA')). See .modelyard/data/quarantine/2013-02",
        ),
    ],
    ids=["missing", "cut short", "wrong column", "empty month", "too many bad rows"],
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


def test_a_mistake_in_the_settings(repo: Path) -> None:
    config = (repo / "config.yaml").read_text()
    (repo / "config.yaml").write_text(config.replace("patience:", "patiense:"))
    code, printed = materialize(repo)
    (repo / "config.yaml").write_text(config)
    line = config[: config.index("patience:")].count("\n") + 1
    assert code == 1 and f"config.yaml:{line}: training.patiense: " in printed
