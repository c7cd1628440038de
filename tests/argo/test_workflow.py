"""The release template as a sequence of commands: order, outputs, retries, the exit handler."""

from pathlib import Path
from typing import Any

import pytest
from argo.interpreter import Interpreter
from argo.rendered import MODEL, template, walk

from modelyard.delivery.commands.steps import deadline
from modelyard.delivery.policy import load_release
from modelyard.delivery.step_interface import Next

BACK = [("rollback", 0), ("write-back", 0)]


def names(interpreter: Interpreter) -> list[str]:
    return [name for name, _ in interpreter.nodes]


@pytest.mark.parametrize(
    ("environment", "approval"),
    [("staging", []), ("ramped", []), ("production", ["approve", "watch"])],
)
def test_a_version_that_can_be_compared(
    tmp_path: Path, environment: str, approval: list[str]
) -> None:
    """The canary is one node, whatever its weights: its log and the record show them."""
    interpreter, commands, status = walk(tmp_path, environment)
    assert status == "Succeeded"
    assert names(interpreter) == ["deploy", "shadow", "canary", *approval, "promote"]
    release = load_release(MODEL / "argo" / "release.yaml")
    for command in commands:
        assert command[:3] == ["modelyard", "release", "step"]
        options = dict(zip(command[4::2], command[5::2], strict=True))
        assert options == {
            "--candidate": "2", "--digest": release.digest, "--workflow": interpreter.name,
        }  # fmt: skip


@pytest.mark.parametrize("environment", ["staging", "production"])
def test_what_is_done_with_its_deployment_is_one_pod(tmp_path: Path, environment: str) -> None:
    """A first version, and one that serves already."""
    interpreter, _, status = walk(tmp_path, environment, following=Next.done)
    assert (status, interpreter.nodes) == ("Succeeded", [("deploy", 0)])


def test_a_first_version_that_a_person_approves(tmp_path: Path) -> None:
    interpreter, _, status = walk(tmp_path, "production", following=Next.approve)
    assert status == "Succeeded"
    assert names(interpreter) == ["deploy", "approve", "watch", "promote"]


def test_a_deployment_that_says_nothing_skips_nothing(tmp_path: Path) -> None:
    """Its steps do nothing where nothing is left to do, and promote only what was approved."""
    interpreter, _, status = walk(tmp_path, "staging", following=None)
    assert status == "Succeeded"
    assert names(interpreter) == ["deploy", "shadow", "canary", "approve", "watch", "promote"]


def test_a_person_is_waited_for_while_the_candidate_is_watched(tmp_path: Path) -> None:
    """What the watch finds stands, whatever the person says then."""
    interpreter, _, status = walk(tmp_path, "production", {"watch": [2]})
    assert status == "Failed"
    assert interpreter.nodes[-4:] == [("approve", 0), ("watch", 2), *BACK]


@pytest.mark.parametrize("code", [2, 3])
@pytest.mark.parametrize("step", ["deploy", "shadow", "canary", "promote"])
def test_a_decision_ends_the_walk_and_is_not_tried_again(
    tmp_path: Path, step: str, code: int
) -> None:
    interpreter, _, status = walk(tmp_path, "staging", {step: [code]})
    assert status == "Failed"
    assert interpreter.nodes[-3:] == [(step, code), *BACK]


def test_what_breaks_is_tried_again(tmp_path: Path) -> None:
    interpreter, _, status = walk(tmp_path, "ramped", {"deploy": [1, 137], "canary": [137]})
    assert status == "Succeeded"
    assert interpreter.nodes == [
        ("deploy", 1), ("deploy", 137), ("deploy", 0), ("shadow", 0),
        ("canary", 137), ("canary", 0), ("promote", 0),
    ]  # fmt: skip


@pytest.mark.parametrize("step", ["deploy", "shadow", "canary", "promote"])
def test_a_step_that_stays_broken_rolls_back(tmp_path: Path, step: str) -> None:
    interpreter, commands, status = walk(tmp_path, "staging", {step: [1] * 6})
    assert status == "Failed"
    assert interpreter.nodes[-8:] == [(step, 1)] * 6 + BACK
    assert commands[-1][:3] == ["modelyard", "release", "write-back"]


def nodes() -> list[dict[str, Any]]:
    return [t for t in template()["spec"]["templates"] if "container" in t]


def test_only_the_write_back_sees_the_credentials_for_git() -> None:
    secrets = {t["name"]: v["secret"] for t in nodes() for v in t["volumes"] if "secret" in v}
    assert secrets == {"write-back": {"secretName": "modelyard-git", "optional": True}}


def test_every_node_but_the_watch_has_a_deadline() -> None:
    """A person may take as long as the canary's time allows."""
    without = {t["name"] for t in nodes() if "activeDeadlineSeconds" not in t}
    assert without == {"watch"}
    assert all(t["retryStrategy"]["limit"] >= 5 for t in nodes())


def test_a_node_has_the_time_that_the_policy_gives_it() -> None:
    release = load_release(MODEL / "argo" / "release.yaml")
    for name in ("staging", "production", "ramped"):
        policy = release.environments[name].policy
        canary = policy.canary.max_duration * max(1, len(policy.canary.steps))
        assert deadline(policy) > max(canary, policy.shadow.max_duration)
