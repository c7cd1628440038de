"""A shadow that no user gives traffic to is decided by logged requests; the canary never is."""

import json
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from delivery import logged
from delivery.model_repo import POLICY, Repo, package

from modelyard.delivery.local.envoy.xds import ARM_HEADER
from modelyard.delivery.local.predictions import SHADOW_ID
from modelyard.delivery.local.shadow_replay import past_requests

pytestmark = pytest.mark.xdist_group("delivery")

ALONE = ("release", "run", "--env", "local", "--candidate", "2", "--json")


def replaying(canary: str = "30s") -> dict:
    """The policy of the tests, with logged requests for the shadow."""
    return {
        **POLICY,
        "shadow": {**POLICY["shadow"], "replay": True},
        "canary": {**POLICY["canary"], "max_duration": canary},
    }


@pytest.mark.slow
def test_logged_requests_decide_the_shadow_and_nothing_more(serving: Repo) -> None:
    with closing(httpx.Client(base_url=serving.url)) as client:
        for i in range(20):
            client.post("/predict", json={"rows": [{"x": i / 20}]}).raise_for_status()
    serving.write_policy(replaying(canary="2s"))
    done = serving.modelyard(*ALONE)
    result = json.loads(done.stdout)
    assert (done.returncode, result["decision"]) == (2, "rolled_back"), result
    assert "undecided" in result["reason"]
    events = serving.events()
    assert {e.weight for e in events if e.phase == "canary"} == {20}, "no user, no further"
    first = next(e for e in events if e.phase == "canary")
    assert first.evidence is not None
    counts = first.evidence["counts"]
    assert counts["replayed"]["requests"] >= POLICY["shadow"]["min_requests"]
    assert counts["stable"]["requests"] >= counts["replayed"]["requests"]
    live = [e.evidence["counts"] for e in events if e.phase == "canary" and e.evidence]
    # The first was taken before the routes changed, and while the last copies were under way.
    assert len({c["candidate"]["requests"] for c in live[1:]}) == 1

    sent = [row for row in logged.read(serving.predictions(2)) if row["time"] > events[0].time]
    asked = {row["inputs"]["x"] for row in logged.read(serving.predictions(1))}
    assert sent and {row["inputs"]["x"] for row in sent} <= asked
    assert all(row["request_id"].startswith(SHADOW_ID) for row in sent), "nobody else asked"


@pytest.mark.slow
def test_a_fault_that_logged_requests_show(serving: Repo) -> None:
    serving.write_policy(replaying())
    serving.plant(2, shift=5.0)
    done = serving.modelyard(*ALONE)
    result = json.loads(done.stdout)
    assert (done.returncode, result["decision"]) == (2, "rolled_back")
    assert "predictions" in result["reason"] and result["failed_requests"] == 0
    assert {e.weight for e in serving.events()} == {0}


def test_the_way_into_the_shadow_is_shut_at_other_times(serving: Repo) -> None:
    reply = httpx.post(
        f"{serving.url}/predict", json={"rows": [{"x": 0.5}]}, headers={ARM_HEADER: "shadow"}
    )
    assert (reply.status_code, reply.text) == (503, "no shadow now\n")


def test_what_is_sent_into_a_shadow(tmp_path: Path) -> None:
    package(tmp_path / "package")
    log = tmp_path / "log"
    reference = [json.loads(each)["rows"] for each in past_requests(log, tmp_path / "package")]
    assert len(reference) == 97 and reference[0] == [{"x": 0.0}], "before any traffic"
    rows = [
        {"time": float(i), "request_id": name, "row": row, "inputs": {"x": i}, "score": 0.0}
        for i, (name, row) in enumerate([("a", 0), ("a", 1), (f"{SHADOW_ID}1", 0), ("b", 0)])
    ]
    logged.write(log, rows)
    sent = [json.loads(each)["rows"] for each in past_requests(log, tmp_path / "package")]
    assert sent == [[{"x": 0}, {"x": 1}], [{"x": 3}]]
