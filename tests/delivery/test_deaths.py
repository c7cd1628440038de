"""Parts of the data plane die, in a release and outside of one."""

import json
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest
from delivery.model_repo import POLICY, Repo, Users

from modelyard.delivery.local.envoy.process import Envoy
from modelyard.delivery.local.envoy.xds import ARM_HEADER
from modelyard.delivery.local.process_supervisor import Server, free_port, wait_until
from modelyard.delivery.ports import Routes

pytestmark = pytest.mark.xdist_group("delivery")

# It stays in the canary until somebody ends it, however slow the machine is.
STAYS = {"min_requests": 10_000, "max_duration": "10m"}
UNHURRIED = {**POLICY, "canary": {**POLICY["canary"], **STAYS}}


def kill(folder: Path) -> dict:
    """kill -9 of a server with all that belongs to it; what was known of it."""
    facts = Server(folder).facts
    assert facts is not None
    leader = psutil.Process(facts["pid"])
    for process in [leader, *leader.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    return facts


def answers(repo: Repo, headers: dict[str, str] | None = None) -> bool:
    try:
        return httpx.get(f"{repo.url}/model", headers=headers, timeout=2).is_success
    except httpx.HTTPError:
        return False


@pytest.mark.slow
def test_envoy_dies_in_mid_release(serving: Repo) -> None:
    serving.write_policy(UNHURRIED)
    process = serving.start(*serving.command(2), "--json")
    serving.wait_for("canary", 20)
    kill(serving.folder / ".modelyard/serving/envoy")
    assert wait_until(lambda: answers(serving), 30), "users get back"
    begun = len(serving.events())
    more = wait_until(lambda: len(serving.events()) > begun + 10, 60)
    assert more, serving.finish(process) if process.poll() is not None else serving.events()[-3:]
    process.send_signal(signal.SIGINT)
    assert json.loads(serving.finish(process).stdout)["decision"] == "rolled_back"
    events = serving.events()
    epochs = {
        e.evidence["counts"]["epoch"] for e in events if e.evidence and "counts" in e.evidence
    }
    assert len(epochs) == 2
    assert {e.weight for e in events} == {0, 20}, "nothing advanced on old evidence"


def test_envoy_dies_before_it_takes_new_routes_over(tmp_path: Path) -> None:
    """The next one begins with them."""
    envoy = Envoy(tmp_path, free_port())
    try:
        envoy.apply(Routes(stable=None), {})
        facts = envoy.server.facts
        assert facts is not None
        (process,) = psutil.Process(facts["pid"]).children()
        process.suspend()
        with ThreadPoolExecutor() as pool:
            applied = pool.submit(envoy.apply, Routes(stable=1), {1: free_port()})
            clusters = tmp_path / "clusters.json"
            assert wait_until(lambda: "direct-v1" in clusters.read_text(), 30)
            process.kill()
            applied.result()
        assert envoy.epoch != facts["token"] and envoy.health().status == "ready"
        reply = httpx.get(f"http://127.0.0.1:{envoy.port}/", headers={ARM_HEADER: "stable"})
        assert "no version yet" not in reply.text
    finally:
        envoy.stop()


def test_envoy_dies_just_after_it_took_new_routes_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It died, which the next look sees; it was not deaf, which would end the release."""
    envoy = Envoy(tmp_path, free_port())
    try:
        envoy.apply(Routes(stable=None), {})
        facts, ask = envoy.server.facts, envoy._get
        assert facts is not None
        shell = psutil.Process(facts["pid"])
        (process,) = shell.children()
        routes, ports = Routes(stable=1), {1: free_port()}

        def answer_and_die(path: str) -> str:
            reply = ask(path)
            written = json.loads((tmp_path / "routes.json").read_text())["version_info"]
            if process.is_running() and written != begun and written in reply:
                shell.suspend()  # what is left of a process for a moment, held
                process.kill()
            return reply

        begun = json.loads((tmp_path / "routes.json").read_text())["version_info"]
        monkeypatch.setattr(envoy, "_get", answer_and_die)
        envoy.apply(routes, ports)
        assert wait_until(lambda: process.status() == psutil.STATUS_ZOMBIE, 5)
        shell.resume()
        assert wait_until(lambda: envoy.health().status == "failed", 5)
        envoy.apply(routes, ports)
        assert envoy.epoch != facts["token"] and envoy.health().status == "ready"
    finally:
        envoy.stop()


@pytest.mark.slow
def test_a_candidate_that_dies_loses_its_users(serving: Repo) -> None:
    serving.write_policy(UNHURRIED)
    process = serving.start(*serving.command(2), "--json")
    serving.wait_for("canary", 20)
    with Users(serving.url, rate=50) as users:
        kill(serving.folder / ".modelyard/serving/v2")
        done = serving.finish(process)
    result = json.loads(done.stdout)
    assert (done.returncode, result["decision"]) == (2, "rolled_back")
    assert "the candidate's servers ended" in result["reason"]
    assert "the end of its log" in result["reason"] and "Fixture" in result["reason"]
    assert len(users.failed) <= 0.5 * users.requests and serving.answers() == 1


@pytest.mark.slow
def test_a_stable_server_that_dies_is_started_again(serving: Repo) -> None:
    serving.write_policy(UNHURRIED)
    process = serving.start(*serving.command(2), "--json")
    serving.wait_for("canary", 20)
    before = kill(serving.folder / ".modelyard/serving/v1")
    assert wait_until(lambda: answers(serving, {ARM_HEADER: "stable"}), 30)
    assert Server(serving.folder / ".modelyard/serving/v1").facts != before
    process.send_signal(signal.SIGINT)
    result = json.loads(serving.finish(process).stdout)
    assert result["decision"] == "rolled_back" and result["stable_downtime_s"] > 0
    assert {e.weight for e in serving.events()} <= {0, 20}, "nothing advanced meanwhile"


@pytest.mark.slow
def test_status_says_that_envoy_ended_and_a_release_of_stable_mends_it(serving: Repo) -> None:
    status = serving.modelyard("release", "status").stdout
    assert f"users: {serving.url}" in status
    kill(serving.folder / ".modelyard/serving/envoy")
    status = serving.modelyard("release", "status").stdout
    assert "users: no answer: Envoy ended" in status
    found = json.loads(serving.modelyard("release", "status", "--json").stdout)
    assert (found["envoy"], found["servers"]) == ("failed", {"1": "ready"})
    done = serving.modelyard("release", "run", "--env", "local", "--candidate", "1")
    assert done.returncode == 0 and serving.answers() == 1


@pytest.mark.slow
def test_a_taken_port_is_seen_before_a_server_is_started(serving: Repo) -> None:
    """Of the stable version, too, which needs no release."""
    assert serving.modelyard("release", "stop", "--env", "local").returncode == 0
    run = ("release", "run", "--env", "local", "--candidate", "1")
    with socket.create_server(("127.0.0.1", serving.port)):
        done = serving.modelyard(*run)
        assert done.returncode == 1 and f"port {serving.port} is in use" in done.stderr
        assert not list(serving.folder.glob(".modelyard/serving/*/process.json"))
    assert serving.modelyard(*run).returncode == 0
