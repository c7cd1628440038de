"""The release template's own sequence of commands, carried out on the local platform."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import yaml
from argo.entry import modelyard
from argo.interpreter import Interpreter
from argo.rendered import template
from delivery.model_repo import POLICY, Repo

from modelyard.delivery.local.replay import Replay
from modelyard.delivery.manifests.objects import Target, policy_object
from modelyard.delivery.manifests.render import environment_text
from modelyard.delivery.manifests.workflow_template import release_workflow
from modelyard.delivery.step_interface import OUTPUTS_VARIABLE

pytestmark = [pytest.mark.xdist_group("delivery"), pytest.mark.slow]

END = ["rollback", "write-back"]
Attempt = Callable[[list[str]], int | None]
"""(arguments) → an exit code in place of the step's, or None to run it"""


def walk(repo: Repo, candidate: int, attempt: Attempt = lambda arguments: None) -> Interpreter:
    """Submit the release of `candidate` to the interpreter, under replayed traffic."""

    def execute(command: list[str], files: dict[str, str], environment: dict[str, str]) -> int:
        for path, content in files.items():  # a pod has these files of the model repo only
            (repo.folder / path.removeprefix("/modelyard/")).write_text(content)
        code = attempt(command[1:])
        outputs = {k: v for k, v in environment.items() if k == OUTPUTS_VARIABLE}
        return run(repo, *command[1:], **outputs) if code is None else code

    policy = repo.folder / "argo" / "release.yaml"
    whole = policy.read_text()
    made = workflow(whole, candidate)
    interpreter = Interpreter(template(), *made, repo.folder / "pod", execute)
    try:
        with traffic(repo):
            interpreter.run()
    finally:
        policy.write_text(whole)
    return interpreter


def run(repo: Repo, *arguments: str, **environment: str) -> int:
    """A node that is to be killed has a process of its own; the others have not."""
    environment |= {"PLANTED_FAULTS": str(repo.faults)}
    return modelyard(repo.folder, *arguments, **environment).returncode


def workflow(text: str, candidate: int) -> tuple[dict, dict]:
    """The Workflow that would be submitted, with the local environment in place of a cluster, and
    the policy object.

    Args:
        text: of argo/release.yaml.
    """
    target = Target(
        model="fixture",
        environment="local",
        namespace="local",
        image=yaml.safe_load(text)["image"],
        version=candidate,
        host="localhost",
        gateway="local/local",
        prometheus="http://localhost",
    )
    return release_workflow(target), policy_object(target, environment_text(text, "local"))


@contextmanager
def traffic(repo: Repo) -> Iterator[None]:
    users = Replay(repo.url, [b'{"rows": [{"x": 0.%d}]}' % n for n in range(1, 98)], rate=150)
    users.start()
    try:
        yield
    finally:
        users.stop()


def names(interpreter: Interpreter) -> list[str]:
    return [name for name, _ in itertools.groupby(name for name, _ in interpreter.nodes)]


def test_a_models_first_four_releases(repo: Repo) -> None:
    # A wide margin is soon proven: here the order of the nodes counts.
    gates = {"errors": {"margin": 0.2}, "latency": None, "predictions": None}
    repo.write_policy(POLICY | {"gates": gates})
    first_release(repo, 1)
    fails_in_the_canary(repo, 3, stable=1)
    node_never_starts(repo, 2, stable=1)
    node_dies(repo, 2)
    version_of_the_way_back(repo, 2)
    run(repo, "release", "stop", "--env", "local")


def first_release(repo: Repo, version: int) -> None:
    """There is nothing to compare with, so it serves when it is deployed."""
    done = walk(repo, version)
    assert done.nodes == [("deploy", 0)]
    assert repo.events()[-1].decision == "bootstrapped", repo.events()[-1]
    assert repo.answers() == version


def fails_in_the_canary(repo: Repo, version: int, stable: int) -> None:
    """The step decides and rolls back; the exit handler finds nothing left to do."""
    repo.plant(version, fail_share=0.5, live_only=True)
    done = walk(repo, version)
    assert repo.events()[-1].decision == "rolled_back", repo.events()[-1]
    assert [code for _, code in done.nodes].count(2) == 1
    assert names(done)[-3] == "canary"
    assert done.nodes[-2:] == [("rollback", 0), ("write-back", 0)]
    assert repo.answers() == stable


def node_never_starts(repo: Repo, version: int, stable: int) -> None:
    """As where the steps' image can't be pulled: only the exit handler is left to roll back."""

    def attempt(arguments: list[str]) -> int | None:
        return 64 if "canary" in arguments else None

    done = walk(repo, version, attempt)
    last = repo.events()[-1]
    assert (last.decision, last.stable) == ("rolled_back", stable), last
    assert names(done) == ["deploy", "shadow", "canary", *END]
    assert repo.answers() == stable


def node_dies(repo: Repo, version: int) -> None:
    """Killed as with its machine, within the canary; its retry goes on from the record."""
    killed = threading.Event()

    def attempt(arguments: list[str]) -> int | None:
        if "canary" not in arguments or killed.is_set():
            return None
        process = repo.start(*arguments)
        while repo.events()[-1].phase != "canary":
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
        process.communicate()
        killed.set()
        return 137

    done = walk(repo, version, attempt)
    assert repo.events()[-1].decision == "promoted", repo.events()[-1]
    assert names(done) == ["deploy", "shadow", "canary", "promote"]
    assert [code for _, code in done.nodes if code] == [137]
    assert repo.answers() == version


def version_of_the_way_back(repo: Repo, version: int) -> None:
    """It serves already: nothing is left to do, and the next environment has its turn."""
    events = len(repo.events())
    done = walk(repo, version)
    assert done.nodes == [("deploy", 0)] and len(repo.events()) == events
    assert repo.answers() == version
