"""Parts of the local side that need no whole release."""

import json
import os
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from modelyard.delivery.evidence.counts import Arm
from modelyard.delivery.local.envoy.stats import read_arms
from modelyard.delivery.local.process_supervisor import Server, wait_until

STATS = """\
{"stats": [
  {"name": "cluster.v1.upstream_rq_2xx", "value": 90},
  {"name": "cluster.v1.upstream_rq_5xx", "value": 7},
  {"name": "cluster.v1.upstream_rq_4xx", "value": 3},
  {"name": "cluster.v1.upstream_rq_active", "value": 4},
  {"name": "cluster.replay-v1.upstream_rq_2xx", "value": 2},
  {"histograms": {"supported_percentiles": [50], "details": [
    {"name": "cluster.v1.upstream_rq_time", "intervals": [], "totals": [
      {"lower_bound": 0, "width": 0, "count": 1},
      {"lower_bound": 7, "width": 0.1, "count": 2},
      {"lower_bound": 8, "width": 0.1, "count": 50},
      {"lower_bound": 57, "width": 1, "count": 40},
      {"lower_bound": 110.00000000000001, "width": 10, "count": 7}
    ]}
  ]}}
]}
"""


def test_envoys_statistics() -> None:
    latency: dict[float, int] = {1: 1, 7: 0, 8: 2, 9: 50, 57: 0, 58: 40, 110: 0, 120: 7}
    assert read_arms(STATS) == {
        "v1": Arm(requests=100, failures=10, pending=4, latency=latency),
        "replay-v1": Arm(requests=2),
    }
    assert read_arms('{"stats": []}') == {}


@pytest.mark.parametrize("value", ["NaN", "many", "null", "Infinity", "{}", '"x"'])
def test_statistics_that_are_no_numbers(value: str) -> None:
    with pytest.raises(ValueError):
        read_arms(STATS.replace(" 90", f" {value}"))


def test_a_pid_of_another_program_is_never_ours(tmp_path: Path) -> None:
    """After a reboot a pid can be anybody's: this very test's, for example."""
    server = Server(tmp_path)
    server.file.write_text(json.dumps({"pid": os.getpid(), "started": 1.0}))
    assert not server.alive()
    server.stop()
    assert server.facts is None, "and this test still runs"


def test_a_server_outlives_its_starter_and_its_children_die_with_it(tmp_path: Path) -> None:
    program = "import subprocess, time; subprocess.Popen(['sleep', '600']); time.sleep(600)"
    server = Server(tmp_path)
    server.start([sys.executable, "-c", program], {})
    process = server._process()
    assert process is not None
    assert wait_until(lambda: bool(process.children()), 60)
    children = process.children()
    server.stop()
    assert not server.alive() and not any(c.is_running() for c in children)


@pytest.mark.parametrize("end", ["stop", "start"])
def test_workers_do_not_outlive_a_leader_that_was_killed(tmp_path: Path, end: str) -> None:
    program = "import subprocess, time; subprocess.Popen(['sleep', '600']); time.sleep(600)"
    server = Server(tmp_path)
    server.start([sys.executable, "-c", program], {})
    leader = server._process()
    assert leader is not None
    assert wait_until(lambda: bool(leader.children()), 60)
    worker = leader.children()[0]
    leader.kill()
    assert wait_until(lambda: not server.alive(), 60) and worker.is_running()
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
