"""Whole releases: the real command, Envoy, two BentoML servers, replayed traffic."""

import json
import re
import signal
import time
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from delivery import logged
from delivery.model_repo import POLICY, Repo, Users

from modelyard.delivery.local.process_supervisor import Server

pytestmark = pytest.mark.xdist_group("delivery")


def test_a_first_version_and_a_good_one_after_it(repo: Repo) -> None:
    code, first = repo.release(1)
    assert (code, first["decision"], first["stable"]) == (0, "bootstrapped", None)
    ramp = {**POLICY["canary"], "ramp": {"harm_budget": 20}, "steps": []}
    repo.write_policy({**POLICY, "canary": ramp})
    code, result = repo.release(2)
    assert (code, result["decision"], result["stable"]) == (0, "promoted", 1)
    assert result["failed_requests"] == 0 and result["stable_downtime_s"] == 0
    assert result["requests"] > 100 and repo.answers() == 2
    ramped = [e.weight for e in repo.events() if e.phase == "canary"]
    assert 1 <= min(ramped) <= max(ramped) <= 50, "no more before all is proven"
    assert Server(repo.folder / ".modelyard/serving/v1").facts is None, "the old one is stopped"

    done = repo.modelyard("release", "run", "--env", "local", "--candidate", "2")
    assert done.returncode == 0 and "version 2 is the stable version already" in done.stdout

    found = json.loads(repo.modelyard("release", "status", "--json").stdout)
    assert found["stable"] == 2 and found["servers"] == {"2": "ready"}
    assert [r["decision"] for r in found["releases"]] == ["bootstrapped", "promoted"]
    assert "promoted" in repo.modelyard("release", "status").stdout

    assert repo.modelyard("release", "report").returncode == 0
    page = (repo.folder / ".modelyard" / "report.html").read_text()
    assert page.count("<section") == 2 and "<svg" in page
    assert not re.search(r"(src|href)=.https?:", page), "the page must stand alone"

    assert repo.modelyard("release", "stop", "--env", "local").returncode == 0
    with pytest.raises(httpx.ConnectError):
        repo.answers()
    done = repo.modelyard("release", "run", "--env", "local", "--candidate", "2")
    assert done.returncode == 0 and repo.answers() == 2, "the stable version is brought back"


@pytest.mark.slow
def test_a_server_that_is_another_version(serving: Repo) -> None:
    serving.plant(2, says=9)
    code, result = serving.release(2)
    assert (code, result["decision"]) == (2, "rolled_back")
    assert "version 2 says it is 9" in result["reason"]
    assert {e.phase for e in serving.events()} == {"preflight", "deploy", "rollback", "done"}
    assert result["failed_requests"] == 0 and result["stable_downtime_s"] == 0
    assert not Server(serving.folder / ".modelyard/serving/v2").alive()


@pytest.mark.slow
def test_a_server_that_never_gets_ready(serving: Repo) -> None:
    serving.write_policy({**POLICY, "deploy": {"max_duration": "5s"}})
    serving.plant(2, never_ready=True)
    code, result = serving.release(2)
    assert (code, result["decision"]) == (2, "rolled_back")
    assert "version 2 was not ready after" in result["reason"]
    assert "the end of its log" in result["reason"]
    assert result["failed_requests"] == 0 and result["stable_downtime_s"] == 0


@pytest.mark.slow
def test_too_little_traffic_is_inconclusive(serving: Repo) -> None:
    canary = {**POLICY["canary"], "min_requests": 10_000, "max_duration": "2s"}
    held = {"on_inconclusive": "hold", "hold_weight": 10}
    serving.write_policy({**POLICY, "canary": {**canary, **held}})
    code, result = serving.release(2)
    assert (code, result["decision"]) == (3, "held")
    assert re.search(r"undecided after \d+ s: \d+ of 10000 requests", result["reason"])
    assert serving.events()[-1].weight == 10
    answered = {serving.answers() for _ in range(120)}
    assert answered == {1, 2}, "the held candidate keeps its share"
    serving.write_policy(POLICY)
    serving.plant(2, says=9)
    assert serving.release(2)[0] == 2, "a new attempt begins anew"


@pytest.mark.slow
def test_the_shadow_answers_nobody_and_a_second_controller_is_refused(serving: Repo) -> None:
    serving.write_policy({**POLICY, "shadow": {"min_requests": 10_000, "max_duration": "60s"}})
    process = serving.start(*serving.command(2))
    serving.wait_for("shadow")
    with closing(httpx.Client(base_url=serving.url)) as client:
        answers = [client.post("/predict", json={"rows": [{"x": 0.1}]}) for _ in range(20)]
        assert {a.json()["version"] for a in answers} == {1}
        assert all(a.headers["x-request-id"] for a in answers)
        mine = client.post(
            "/predict", json={"rows": [{"x": 0.1}]}, headers={"x-request-id": "my-own"}
        )
        assert mine.headers["x-request-id"] == "my-own"
    second = serving.modelyard(*serving.command(2))
    assert second.returncode == 1
    assert f"another controller (process {process.pid}) is at work" in second.stderr
    stop = serving.modelyard("release", "stop", "--env", "local")
    assert stop.returncode == 1 and "another controller" in stop.stderr

    process.send_signal(signal.SIGTERM)
    done = serving.finish(process)
    assert done.returncode == 2 and "interrupted" in done.stderr
    stable, candidate = (
        {row["request_id"] for row in logged.read(serving.predictions(version))}
        for version in (1, 2)
    )
    asked = {answer.headers["x-request-id"] for answer in answers}
    assert asked <= stable and asked <= candidate, "paired by request id"


def test_ctrl_c_goes_back_to_stable(serving: Repo) -> None:
    serving.write_policy({**POLICY, "canary": {**POLICY["canary"], "min_requests": 10_000}})
    process = serving.start(*serving.command(2), "--json")
    serving.wait_for("canary", 20)
    process.send_signal(signal.SIGINT)
    done = serving.finish(process)
    result = json.loads(done.stdout)
    assert (done.returncode, result["decision"]) == (2, "rolled_back")
    assert result["reason"] == "interrupted" and "interrupted" in done.stderr
    with closing(httpx.Client(base_url=serving.url)) as client:
        replies = [client.post("/predict", json={"rows": [{"x": 0.1}]}) for _ in range(50)]
    assert {r.json()["version"] for r in replies} == {1}


@pytest.mark.slow
def test_steps_for_a_workflow_engine(serving: Repo) -> None:
    def step(name: str, *more: str) -> int:
        arguments = ["release", "step", name, "--env", "local", "--candidate", "3", *more]
        done = serving.modelyard(*arguments)
        assert not done.stderr, done.stderr
        return done.returncode

    missing = serving.modelyard(
        "release", "step", "shadow", "--env", "local", "--candidate", "3"
    )  # fmt: skip
    assert missing.returncode == 1 and "run step deploy first" in missing.stderr
    assert step("deploy") == 0 and serving.events()[-1].phase == "deploy"
    events = len(serving.events())
    assert step("deploy") == 0 and len(serving.events()) == events, "nothing left to do"
    assert Server(serving.folder / ".modelyard/serving/v3").alive()
    serving.write_policy({**POLICY, "canary": {**POLICY["canary"], "min_requests": 1}})
    changed = serving.modelyard("release", "step", "shadow", "--env", "local", "--candidate", "3")
    assert changed.returncode == 4 and "not the one that release" in changed.stderr
    assert step("rollback") == 0 and step("rollback") == 0
    assert serving.events()[-1].decision == "rolled_back"
    assert step("shadow") == 2, "a rolled back release is not taken up by a later step"

    newest = max((serving.folder / ".modelyard/releases").glob("*.jsonl"))
    written = newest.read_text()
    newest.write_text(written.replace('"candidate":3', '"candidate":"three"'))
    edited = serving.modelyard("release", "status", "--json")
    newest.write_text(written)
    document = json.loads(edited.stdout)
    assert edited.returncode == 1 and document["unreadable"] in edited.stderr
    assert (document["stable"], document["serving"]) == (None, {"1": 100}), "what serves is shown"


def lose_the_record(repo: Repo) -> None:
    for path in (repo.folder / ".modelyard/releases").glob("*.jsonl"):
        path.unlink()


@pytest.mark.slow
def test_a_lost_record_takes_nothing_down(serving: Repo) -> None:
    run = ("release", "run", "--env", "local", "--candidate")
    adopt = ("release", "adopt", "--env", "local", "--version")
    with Users(serving.url, rate=50) as users:
        lose_the_record(serving)
        done = serving.modelyard(*run, "1")
        assert (done.returncode, serving.events()[-1].decision) == (0, "bootstrapped")
        assert "version 1 serves all users, and there was no record" in done.stdout
        assert "version 1 is the stable version already" in done.stdout

        serving.write_policy({**POLICY, "canary": {**POLICY["canary"], "min_requests": 10_000}})
        process = serving.start(*serving.command(2))
        serving.wait_for("canary", 20)
        until = time.monotonic() + 20
        while 2 not in users.answers:  # the record is written before the route
            assert time.monotonic() < until
            time.sleep(0.05)
        process.kill()
        process.communicate()
        lose_the_record(serving)
        step = ("release", "step", "promote", "--env", "local", "--candidate", "2")
        assert "no release of version 2 has begun" in serving.modelyard(*step).stderr
        done = serving.modelyard(*run, "2")
        assert done.returncode == 1, done.stdout + done.stderr
        assert "version 1 (80 %) and version 2 (20 %), but there is no record" in done.stderr
        status = serving.modelyard("release", "status").stdout
        assert "users get version 1 (80 %) and version 2 (20 %)" in status
        back = ("release", "step", "rollback", "--env", "local", "--candidate", "2")
        done = serving.modelyard(*back)
        assert done.returncode == 0 and "now all users get version 1" in done.stdout
        done = serving.modelyard(*adopt, "3")
        assert done.returncode == 1 and "(versions that have: 1, 2)" in done.stderr
        assert serving.modelyard(*adopt, "1").returncode == 0
        assert "stable version already" in serving.modelyard(*adopt, "1").stdout
        done = serving.modelyard(*adopt, "2")
        assert done.returncode == 1 and "agree about what is stable" in done.stderr
    assert users.failed == [] and set(users.answers) == {1, 2}
    assert json.loads(serving.modelyard("release", "status", "--json").stdout)["serving"] == {
        "1": 100
    }


def test_no_paths_of_earlier_runs(serving: Repo) -> None:
    """The state folder holds no process files of what does not run."""
    found = {p.parent.name for p in Path(serving.folder).glob(".modelyard/serving/*/process.json")}
    assert found == {"envoy", "v1"}
