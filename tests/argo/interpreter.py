"""As much of Argo's controller as the release template needs: steps, `when`, retries, onExit."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Execute = Callable[[list[str], dict[str, str]], int]
"""(command with its arguments, path → content of the input artifacts) → exit code"""

RETRIED = 'lastRetry.status == "Error" || asInt(lastRetry.exitCode) not in [2, 3]'


@dataclass
class Interpreter:
    """Runs a Workflow that refers to a ClusterWorkflowTemplate, one node after the other."""

    template: dict[str, Any]
    workflow: dict[str, Any]
    execute: Execute
    approve: Callable[[], None] = lambda: None
    """what a person does at a suspended node"""
    nodes: list[tuple[str, int]] = field(default_factory=list)
    """(name, exit code) of each attempt at a node, in order"""

    def run(self) -> str:
        """The workflow's status, after its exit handler has run."""
        spec = self.template["spec"]
        parameters = {p["name"]: p.get("value") for p in spec["arguments"]["parameters"]}
        given = self.workflow["spec"]["arguments"]["parameters"]
        parameters |= {p["name"]: p["value"] for p in given}
        self._scope = {"workflow.name": "flight-delay-v2-x7k2p"}
        self._scope |= {f"workflow.parameters.{k}": v for k, v in parameters.items()}
        status = "Succeeded" if self._run(spec["entrypoint"], spec["entrypoint"], {}) else "Failed"
        self._scope["workflow.status"] = status
        self._run(spec["onExit"], spec["onExit"], {})
        return status

    def _run(self, node: str, name: str, inputs: dict[str, str]) -> bool:
        templates = {each["name"]: each for each in self.template["spec"]["templates"]}
        scope = self._scope | {f"inputs.parameters.{k}": v for k, v in inputs.items()}
        if "container" in templates[name]:
            return self._container(node, _filled(templates[name], scope))
        if "suspend" in templates[name]:
            self.approve()
            self.nodes.append((node, 0))
            return True
        # The steps of a group run at once, to their ends; the next group needs all of them.
        return all(
            all([self._step(step, scope) for step in group]) for group in templates[name]["steps"]
        )

    def _step(self, step: dict[str, Any], scope: dict[str, str]) -> bool:
        step = _filled(step, scope)
        if "when" in step and not _holds(step["when"]):
            return True
        inputs = {p["name"]: p["value"] for p in step.get("arguments", {}).get("parameters", [])}
        return self._run(step["name"], step["template"], inputs)

    def _container(self, node: str, template: dict[str, Any]) -> bool:
        container, retries = template["container"], template["retryStrategy"]
        assert retries["expression"] == RETRIED, "teach the interpreter the new expression"
        artifacts = {a["path"]: a["raw"]["data"] for a in template["inputs"]["artifacts"]}
        for _ in range(1 + retries["limit"]):
            code = self.execute([*container["command"], *container["args"]], artifacts)
            self.nodes.append((node, code))
            if code in (0, 2, 3):
                break
        return code == 0


def _filled(part: Any, scope: dict[str, str]) -> Any:
    """A template with its variables filled in; Argo fails on one that is not known, too."""

    def value(match: re.Match[str]) -> str:
        return json.dumps(str(scope[match[1]]))[1:-1]

    return json.loads(re.sub(r"\{\{([\w.-]+)\}\}", value, json.dumps(part)))


def _holds(when: str) -> bool:
    left, operator, right = when.split()
    if operator == ">":
        return int(left) > int(right)
    if operator == "==":
        return left == right
    assert operator == "!=", when
    return left != right
