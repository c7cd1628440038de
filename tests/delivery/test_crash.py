"""kill -9 of the controller: users notice nothing, and the next controller goes on."""

import threading
from contextlib import closing

import httpx
import pytest
from delivery.model_repo import POLICY, Repo

pytestmark = pytest.mark.xdist_group("delivery")


class Users:
    """Independent load on Envoy, outside of any controller."""

    def __init__(self, url: str) -> None:
        self.answered, self.failed = 0, []
        self._url, self._stop = url, threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        with closing(httpx.Client(base_url=self._url, timeout=10)) as client:
            while not self._stop.wait(0.02):
                try:
                    reply = client.post("/predict", json={"rows": [{"x": 0.5}]})
                    if reply.status_code != 200:
                        self.failed.append(reply.text)
                except httpx.HTTPError as error:
                    self.failed.append(repr(error))
                self.answered += 1

    def __enter__(self) -> "Users":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


@pytest.mark.parametrize(("phase", "weight"), [("deploy", 0), ("shadow", 0), ("canary", 50)])
def test_a_killed_release_is_finished_by_the_next_run(
    serving: Repo, phase: str, weight: int
) -> None:
    slow = {"min_requests": 10_000, "max_duration": "60s"}
    held = {
        "deploy": {},
        "shadow": {"shadow": slow},
        "canary": {"canary": {**POLICY["canary"], **slow, "steps": [weight, 100]}},
    }[phase]
    serving.write_policy({**POLICY, **held})
    with Users(serving.url) as users:
        process = serving.start(*serving.command(2), "--json")
        serving.wait_for(phase, weight)
        process.kill()
        process.communicate()
        begun = serving.events()
        assert begun[-1].decision is None

        other = serving.modelyard("release", "run", "--env", "local", "--candidate", "3")
        assert other.returncode == 1 and "release of version 2" in other.stderr
        serving.write_policy(POLICY)
        # The traffic of the second controller decides: the score is off in shadow, or the
        # requests fail in canary.
        code, result = finish(serving, phase)
    assert (code, result["decision"]) == (2, "rolled_back")
    assert result["release"] == begun[0].release, "the same release"
    assert serving.events()[: len(begun)] == begun, "its record goes on"
    planted = [f for f in users.failed if "planted" in f or "Internal" in f or "error" in f]
    assert len(users.failed) == len(planted) and users.answered > 0
    assert phase == "canary" or not users.failed


def finish(repo: Repo, phase: str) -> tuple[int, dict]:
    repo.plant(2, fail_share=1.0) if phase == "canary" else repo.plant(2, shift=5.0)
    return repo.release(2)


def test_a_killed_release_can_still_be_promoted(repo: Repo) -> None:
    repo.release(1)
    slow = {**POLICY["canary"], "min_requests": 10_000}
    repo.write_policy({**POLICY, "canary": slow})
    process = repo.start(*repo.command(2))
    repo.wait_for("canary", 20)
    with Users(repo.url) as users:
        process.kill()
        process.communicate()
        repo.write_policy(POLICY)
        code, result = repo.release(2)
        assert (code, result["decision"]) == (0, "promoted")
    assert users.answered > 0 and users.failed == []
    assert repo.answers() == 2
