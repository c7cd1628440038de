"""Parts of the local side that need no whole release."""

import json
import os
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from modelyard.delivery.envoy import read_arms
from modelyard.delivery.ports import Arm
from modelyard.delivery.predictions import Pairing
from modelyard.delivery.processes import Server, wait_until

STATS = """\
# TYPE envoy_cluster_upstream_rq_xx counter
envoy_cluster_upstream_rq_xx{envoy_response_code_class="2",envoy_cluster_name="v1"} 90
envoy_cluster_upstream_rq_xx{envoy_response_code_class="5",envoy_cluster_name="v1"} 7
envoy_cluster_upstream_rq_xx{envoy_response_code_class="4",envoy_cluster_name="v1"} 3
# TYPE envoy_cluster_upstream_rq_time histogram
envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name="v1",le="1"} 0
envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name="v1",le="1.1"} 0
envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name="v1",le="1.21"} 60
envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name="v1",le="1.33"} 60
envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name="v1",le="+Inf"} 100
envoy_cluster_upstream_rq_time_sum{envoy_cluster_name="v1"} 6251.42587
envoy_cluster_upstream_rq_time_count{envoy_cluster_name="v1"} 100
"""


def test_envoys_statistics() -> None:
    latency = {1.1: 0, 1.21: 60, 1.33: 0, float("inf"): 40}
    assert read_arms(STATS) == {1: Arm(requests=100, failures=10, latency=latency)}
    assert read_arms("") == {}


@pytest.mark.parametrize("value", ["NaN", "many", ""])
def test_statistics_that_are_no_numbers(value: str) -> None:
    with pytest.raises(ValueError):
        read_arms(STATS.replace(" 90", f" {value}"))


def log(folder: Path, *lines: tuple[str, float, object]) -> None:
    folder.mkdir(exist_ok=True)
    with (folder / "log.jsonl").open("a") as file:
        for request, time_, score in lines:
            row = {"time": time_, "request_id": request, "row": 0, "score": score}
            file.write(json.dumps(row) + "\n")


def test_predictions_are_paired_by_request(tmp_path: Path) -> None:
    stable, candidate = tmp_path / "stable", tmp_path / "candidate"
    log(stable, ("old", 5.0, 0.1), ("a", 10.0, 0.0), ("b", 11.0, 1.0), ("c", 12.0, 0.5))
    log(candidate, ("a", 10.0, 0.05), ("b", 11.0, 3.0), ("stray", 11.0, 0.5))
    pairing = Pairing(stable, candidate, since=9.0)
    pairs = pairing.pairs(tolerance=1.0)
    assert (pairs.rows, pairs.disagreements) == (2, 1)
    with (candidate / "log.jsonl").open("a") as file:
        file.write('{"time": 12.0, "request_id": "c", "row": 0, "sco')
    assert pairing.pairs(1.0) == pairs, "half a line waits"
    with (candidate / "log.jsonl").open("a") as file:
        file.write('re": null}\nnot json\n')
    pairs = pairing.pairs(1.0)
    assert (pairs.rows, pairs.disagreements) == (3, 2), "no number is no agreement"


def test_a_client_that_reuses_its_request_ids(tmp_path: Path) -> None:
    """Paired by the inputs that both versions know, in order where these are the same, too."""

    def lines(offset: float, skip: int = -1, **more: int) -> str:
        rows = [
            {"time": 1.0, "request_id": "job", "row": 0, "inputs": {"x": i // 2, **more},
             "score": i // 2 + offset}
            for i in range(200) if i != skip
        ]  # fmt: skip
        return "".join(json.dumps(row) + "\n" for row in rows)

    for arm, text in {"s": lines(0.0, new=1), "c": lines(0.1, skip=7)}.items():
        (tmp_path / arm).mkdir()
        (tmp_path / arm / "log.jsonl").write_text(text)
    pairs = Pairing(tmp_path / "s", tmp_path / "c", since=0.0).pairs(tolerance=0.01)
    assert (pairs.rows, pairs.disagreements) == (199, 0)


def test_scores_of_several_classes(tmp_path: Path) -> None:
    log(tmp_path / "s", *[(f"{i}", 1.0, [i / 10, 1 - i / 10]) for i in range(10)])
    log(tmp_path / "c", *[(f"{i}", 1.0, [i / 10, 1 - i / 10]) for i in range(8)])
    log(tmp_path / "c", ("8", 1.0, [0.1, 0.9]), ("9", 1.0, [0.5, 0.3, 0.2]))
    pairs = Pairing(tmp_path / "s", tmp_path / "c", since=0.0).pairs(1.0)
    assert (pairs.rows, pairs.disagreements) == (10, 2)


def test_a_long_log_is_read_from_the_middle(tmp_path: Path) -> None:
    for arm in ("s", "c"):
        log(tmp_path / arm, *[(f"{i}", float(i), 0.5) for i in range(20_000)])
    pairing = Pairing(tmp_path / "s", tmp_path / "c", since=19_000.0)
    assert pairing.pairs(1.0).rows == 1000
    read = next(iter(pairing._logs[0]._lines.values()))
    assert read == (tmp_path / "s" / "log.jsonl").stat().st_size


def test_a_pid_of_another_program_is_never_ours(tmp_path: Path) -> None:
    """After a reboot a pid can be anybody's: this very test's, for example."""
    server = Server(tmp_path)
    server.file.write_text(json.dumps({"pid": os.getpid(), "started": 1.0}))
    assert not server.alive()
    server.stop()
    assert server.facts is None, "and this test still runs"


def test_a_server_outlives_its_starter_and_its_children_die_with_it(tmp_path: Path) -> None:
    program = "import subprocess, sys, time; subprocess.Popen(['sleep', '60']); time.sleep(60)"
    server = Server(tmp_path)
    server.start([sys.executable, "-c", program], {})
    process = server._process()
    assert process is not None
    assert wait_until(lambda: bool(process.children()), 10)
    children = process.children()
    began = time.monotonic()
    server.stop()
    assert not server.alive() and not any(c.is_running() for c in children)
    assert time.monotonic() - began < 60


@pytest.mark.parametrize("end", ["stop", "start"])
def test_workers_do_not_outlive_a_leader_that_was_killed(tmp_path: Path, end: str) -> None:
    program = "import subprocess, sys, time; subprocess.Popen(['sleep', '60']); time.sleep(60)"
    server = Server(tmp_path)
    server.start([sys.executable, "-c", program], {})
    leader = server._process()
    assert leader is not None
    assert wait_until(lambda: bool(leader.children()), 10)
    worker = leader.children()[0]
    leader.kill()
    assert wait_until(lambda: not server.alive(), 10) and worker.is_running()
    try:
        server.stop() if end == "stop" else server.start(["sleep", "60"], {})
        assert not worker.is_running()
    finally:
        server.stop()
        with suppress(psutil.NoSuchProcess):
            worker.kill()


def test_a_server_whose_starter_was_killed_at_once_is_found(tmp_path: Path) -> None:
    """kill -9 between the start and the note of the pid."""
    server = Server(tmp_path)
    server.start(["sleep", "60"], {}, port=1)
    facts = server.facts
    assert facts is not None
    server.file.write_text(json.dumps({"port": 1, "token": facts["token"]}))
    assert server.alive()
    server.stop()
    assert not psutil.pid_exists(facts["pid"]) or psutil.Process(facts["pid"]).status() == "zombie"
