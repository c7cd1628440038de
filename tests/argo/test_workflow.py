"""The release template as a sequence of commands: order, retries, the exit handler."""

from typing import Any

import pytest
import yaml
from argo.interpreter import Interpreter
from support import ROOT

from modelyard.delivery.policy import load_release

MODEL = ROOT / "tests" / "argo" / "model"


def walk(environment: str, codes: dict[str, list[int]]) -> tuple[Interpreter, list[list[str]], str]:
    """Run the committed YAML with steps that exit as told (0 unless told otherwise)."""
    commands: list[list[str]] = []

    def execute(command: list[str], files: dict[str, str]) -> int:
        commands.append(command)
        assert files["/modelyard/pyproject.toml"] == (MODEL / "pyproject.toml").read_text()
        given = yaml.safe_load(files["/modelyard/argo/release.yaml"])
        whole = yaml.safe_load((MODEL / "argo" / "release.yaml").read_text())
        one = {environment: whole["environments"][environment]}
        assert given == whole | {"environments": one}
        left = codes.get(command[3], [])
        return left.pop(0) if left else 0

    interpreter = Interpreter(template(), workflow(environment), execute)
    return interpreter, commands, interpreter.run()


def template() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "argo" / "manifests" / "release-template.yaml").read_text())


def workflow(environment: str) -> dict[str, Any]:
    folder = MODEL / "argo" / "manifests" / environment / "release"
    return yaml.safe_load((folder / "workflow.yaml").read_text())


@pytest.mark.parametrize(
    ("environment", "weights"), [("staging", [50, 100]), ("production", [5, 25, 50])]
)
def test_every_weight_has_a_node_in_order(environment: str, weights: list[int]) -> None:
    interpreter, commands, status = walk(environment, {})
    assert status == "Succeeded"
    canary = [f"canary-{n}" for n in range(1, len(weights) + 1)]
    names = [name for name, _ in interpreter.nodes]
    approval = ["approve", "watch"] if environment == "production" else []
    before = ["preflight", "deploy", "shadow", *canary]
    assert names == [*before, *approval, "promote", "write-back"]
    given = [int(c[c.index("--weight") + 1]) for c in commands if "--weight" in c]
    assert given == weights
    for command in commands[:-1]:
        assert command[:3] == ["modelyard", "release", "step"]
        options = dict(zip(command[4::2], command[5::2], strict=True))
        assert options["--env"] == environment and options["--candidate"] == "2"
    assert commands[-1][:3] == ["modelyard", "release", "write-back"]


def test_a_harm_budget_is_one_node() -> None:
    """Its weights are chosen while it runs: its log and the record show them."""
    interpreter, commands, status = walk("ramped", {"ramp": [137, 0]})
    names = [name for name, _ in interpreter.nodes]
    assert status == "Succeeded"
    assert names == ["preflight", "deploy", "shadow", "ramp", "ramp", "promote", "write-back"]
    assert [command[3] for command in commands[:-1]] == names[:-1]


def test_a_person_is_waited_for_while_the_candidate_is_watched() -> None:
    """What the watch finds stands, whatever the person says then."""
    interpreter, commands, status = walk("production", {"watch": [2]})
    assert status == "Failed"
    assert interpreter.nodes[-4:] == [
        ("approve", 0), ("watch", 2), ("rollback", 0), ("write-back", 0),
    ]  # fmt: skip
    watched = next(command for command in commands if command[3] == "watch")
    assert watched[watched.index("--workflow") + 1] == "flight-delay-v2-x7k2p"


@pytest.mark.parametrize("code", [2, 3])
def test_a_decision_ends_the_walk_and_is_not_tried_again(code: int) -> None:
    interpreter, _, status = walk("production", {"canary": [0, code]})
    assert status == "Failed"
    end = [("canary-1", 0), ("canary-2", code), ("rollback", 0), ("write-back", 0)]
    assert interpreter.nodes[-4:] == end


def test_what_breaks_is_tried_again() -> None:
    interpreter, _, status = walk("staging", {"deploy": [1, 137]})
    assert status == "Succeeded"
    assert interpreter.nodes[1:4] == [("deploy", 1), ("deploy", 137), ("deploy", 0)]


@pytest.mark.parametrize("step", ["preflight", "deploy", "shadow", "promote"])
def test_a_step_that_stays_broken_rolls_back(step: str) -> None:
    interpreter, _, status = walk("staging", {step: [1] * 6})
    assert status == "Failed"
    assert interpreter.nodes[-8:] == [(step, 1)] * 6 + [("rollback", 0), ("write-back", 0)]


def test_only_the_write_back_sees_the_credentials_for_git() -> None:
    nodes = [t for t in template()["spec"]["templates"] if "container" in t]
    mounting = {t["name"] for t in nodes if any("secret" in v for v in t["volumes"])}
    assert mounting == {"write-back"}
    secret = next(t for t in nodes if t["name"] == "write-back")["volumes"]
    assert {"secretName": "{{workflow.parameters.model}}-git", "optional": True} in [
        volume.get("secret") for volume in secret
    ]


def test_the_policy_of_the_workflow_is_the_merged_one() -> None:
    release = load_release(MODEL / "argo" / "release.yaml")
    deadlines = {}
    for name in ("staging", "production"):
        parameters = workflow(name)["spec"]["arguments"]["parameters"]
        deadlines[name] = {p["name"]: p["value"] for p in parameters}["deadline"]
    longest = release.environments["production"].policy.canary.max_duration
    assert int(deadlines["production"]) > longest > int(deadlines["staging"])
