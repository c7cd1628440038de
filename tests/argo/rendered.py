"""The committed YAML of tests/argo/model and the release template, and a walk through both."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from argo.interpreter import Interpreter
from support import ROOT

from modelyard.delivery.commands.steps import hand_on
from modelyard.delivery.policy import ReleasePolicy
from modelyard.delivery.step_interface import OUTPUTS_VARIABLE, Next

MODEL = ROOT / "tests" / "argo" / "model"


def walk(
    folder: Path,
    environment: str,
    codes: dict[str, list[int]] | None = None,
    following: Next | None = Next.compare,
) -> tuple[Interpreter, list[list[str]], str]:
    """Run the committed YAML with steps that exit as told (0 unless told otherwise).

    Args:
        following: what `deploy` says comes next; None: it says nothing.
    """
    commands: list[list[str]] = []

    def execute(command: list[str], files: dict[str, str], given: dict[str, str]) -> int:
        commands.append(command)
        assert files["/modelyard/pyproject.toml"] == '[project]\nname = "flight-delay"\n'
        policy = ReleasePolicy.model_validate(yaml.safe_load(files["/modelyard/argo/release.yaml"]))
        assert list(policy.environments) == [environment] and policy.version is None
        left = (codes or {}).get(command[3], [])
        code = left.pop(0) if left else 0
        if OUTPUTS_VARIABLE in given and following and code == 0:
            with pytest.MonkeyPatch.context() as patched:
                patched.setenv(OUTPUTS_VARIABLE, given[OUTPUTS_VARIABLE])
                hand_on(following, policy.environments[environment])
        return code

    made = rendered(environment, "release/workflow"), rendered(environment, "policy")
    interpreter = Interpreter(template(), *made, folder / "pod", execute)
    return interpreter, commands, interpreter.run()


def template() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "argo" / "manifests" / "release-template.yaml").read_text())


def rendered(environment: str, name: str) -> dict[str, Any]:
    path = MODEL / "argo" / "manifests" / environment / f"{name}.yaml"
    return yaml.safe_load(path.read_text())
