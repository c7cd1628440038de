"""What a user can get wrong: one clear message, exit 1, and nothing begun."""

import json
import socket
from pathlib import Path

import polars as pl
import pytest
from argo.entry import modelyard
from delivery.model_repo import POLICY, Repo

from modelyard.delivery.local.record import FileRecord
from modelyard.delivery.local.replay import read_traffic
from modelyard.delivery.policy import Policy
from modelyard.delivery.release.fold import first_event
from modelyard.documents import UserError, read_record

pytestmark = pytest.mark.xdist_group("delivery")


def refused(repo: Repo, *arguments: str) -> str:
    done = modelyard(repo.folder, "release", "run", *arguments)
    assert done.returncode == 1 and not list(repo.folder.glob(".modelyard/releases/*.jsonl"))
    return done.stderr


def test_a_port_in_use(repo: Repo) -> None:
    with socket.create_server(("127.0.0.1", repo.port)):
        message = refused(repo, "--env", "local", "--candidate", "1")
    assert f"port {repo.port} is in use" in message
    assert not list(repo.folder.glob(".modelyard/serving/*/process.json")), "nothing is left over"


def test_arguments(repo: Repo) -> None:
    assert "no Bento of version 9" in refused(repo, "--env", "local", "--candidate", "9")
    assert "there: 1, 2, 3" in refused(repo, "--env", "local", "--candidate", "9")
    assert "no environment 'moon'; it has local" in refused(repo, "--env", "moon")
    assert "give `latest` or a version" in refused(repo, "--env", "local", "--candidate", "new")
    # click's own code for these is 2, which means rolled back here.
    assert "Missing option '--env'" in refused(repo)
    assert "No such option" in refused(repo, "--env", "local", "--wait")
    traffic = ["--env", "local", "--traffic"]
    assert "give replay:PATH" in refused(repo, *traffic, "rows.jsonl")
    assert "no such file" in refused(repo, *traffic, "replay:gone.parquet")


def test_a_bad_line_of_the_policy(repo: Repo) -> None:
    repo.write_policy({**POLICY, "alpha": 2})
    assert "argo/release.yaml:" in refused(repo, "--env", "local")


def test_no_bentos_at_all(repo: Repo) -> None:
    (repo.folder / ".modelyard" / "bentoml").unlink()
    assert "train a model and run `make bento`" in refused(
        repo, "--env", "local", "--candidate", "latest"
    )


def test_an_edited_record(repo: Repo) -> None:
    record = FileRecord(repo.folder / ".modelyard")
    record.folder.mkdir()
    event = first_event("r", 1, None, 100.0, Policy())
    record.append(event)
    path = record.folder / "r.jsonl"
    path.write_text(path.read_text().replace('"candidate":1', '"candidate":"one"'))
    done = repo.modelyard("release", "run", "--env", "local", "--candidate", "1")
    assert done.returncode == 1 and f"{path.name}:1: not a release event" in done.stderr
    shown = repo.modelyard("release", "status")
    assert shown.returncode == 1 and f"{path.name}:1: not a release event" in shown.stderr
    assert "stable: not known" in shown.stdout
    jump = event.model_copy(update={"sequence": 1, "phase": "promote", "weight": 100})
    path.write_text("".join(e.model_dump_json() + "\n" for e in (event, jump)))
    done = repo.modelyard("release", "run", "--env", "local", "--candidate", "1")
    assert done.returncode == 1 and "promote can't follow preflight" in done.stderr
    assert not list(repo.folder.glob(".modelyard/serving/*/process.json")), "nothing was started"


def test_a_line_that_a_crash_cut_off_is_written_anew(tmp_path: Path) -> None:
    record = FileRecord(tmp_path)
    record.folder.mkdir(exist_ok=True)
    event = first_event("r", 1, None, 100.0, Policy())
    record.append(event)
    path = record.folder / "r.jsonl"
    with path.open("a") as file:
        file.write('{"time": 101.0, "rele')
    assert record.releases() == [[event]]
    record.append(event.model_copy(update={"sequence": 1}))
    assert [e.sequence for e in read_record(path)] == [0, 1]


def test_traffic_files(tmp_path: Path) -> None:
    frame = pl.DataFrame({"x": [0.5, None, float("nan")], "carrier": ["UA", "B6", None]})
    frame.write_parquet(tmp_path / "rows.parquet")
    bodies = [json.loads(b) for b in read_traffic(f"replay:{tmp_path / 'rows.parquet'}")]
    assert bodies[0] == {"rows": [{"x": 0.5, "carrier": "UA"}]}
    assert bodies[1]["rows"][0]["x"] is None and bodies[2]["rows"][0]["x"] is None
    for name, content, what in [
        ("cut.parquet", (tmp_path / "rows.parquet").read_bytes()[:50], "neither Parquet"),
        ("rows.csv", b"x,y\n1,2\n", "neither Parquet"),
        ("list.jsonl", b"[1, 2]\n", "one JSON object"),
        ("empty.jsonl", b"\n", "no rows in it"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=what):
            read_traffic(f"replay:{tmp_path / name}")
