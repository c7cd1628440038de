"""As much of Argo's controller as the release template needs: steps, `when`, outputs, retries,
onExit."""

import itertools
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Execute = Callable[[list[str], dict[str, str], dict[str, str]], int]
"""(command with its arguments, path → content of the mounted files, environment) → exit code"""

RETRIED = 'lastRetry.status == "Error" || asInt(lastRetry.exitCode) not in [2, 3, 4]'
_NUMBERS = itertools.count(1)


@dataclass
class Interpreter:
    """Runs a Workflow that refers to a ClusterWorkflowTemplate, one node after the other."""

    template: dict[str, Any]
    workflow: dict[str, Any]
    policy: dict[str, Any]
    """the ConfigMap of the namespace"""
    root: Path
    """a folder for each pod's root file system in turn, as far as it can be written to"""
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
        self.name = f"{self.workflow['metadata']['generateName']}{next(_NUMBERS):05}"
        self._scope = {"workflow.name": self.name}
        self._scope |= {f"workflow.parameters.{k}": v for k, v in parameters.items()}
        ended = self._run(spec["entrypoint"], spec["entrypoint"], {})
        status = "Failed" if ended is None else "Succeeded"
        self._scope["workflow.status"] = status
        self._run(spec["onExit"], spec["onExit"], {})
        return status

    def _run(self, node: str, name: str, inputs: dict[str, str]) -> dict[str, str] | None:
        """The node's outputs; None if it failed."""
        templates = {each["name"]: each for each in self.template["spec"]["templates"]}
        scope = self._scope | {f"inputs.parameters.{k}": v for k, v in inputs.items()}
        if "container" in templates[name]:
            return self._container(node, _filled(templates[name], scope))
        if "suspend" in templates[name]:
            self.approve()
            self.nodes.append((node, 0))
            return {}
        for group in templates[name]["steps"]:
            # The steps of a group run at once, to their ends; the next group needs all of them.
            ended = {step["name"]: self._step(step, scope) for step in group}
            if None in ended.values():
                return None
            for step, outputs in ended.items():
                made = (outputs or {}).items()
                scope |= {f"steps.{step}.outputs.parameters.{k}": v for k, v in made}
        return {}

    def _step(self, step: dict[str, Any], scope: dict[str, str]) -> dict[str, str] | None:
        if "when" in step and not _holds(_filled(step["when"], scope)):
            return {}
        step = _filled(step, scope)
        inputs = {p["name"]: p["value"] for p in step.get("arguments", {}).get("parameters", [])}
        return self._run(step["name"], step["template"], inputs)

    def _container(self, node: str, template: dict[str, Any]) -> dict[str, str] | None:
        container, retries = template["container"], template["retryStrategy"]
        assert retries["expression"] == RETRIED, "teach the interpreter the new expression"
        command = [*container["command"], *container["args"]]
        for _ in range(1 + retries["limit"]):
            shutil.rmtree(self.root, ignore_errors=True)
            self.root.mkdir()
            code = self.execute(command, self._mounted(template), self._environment(container))
            self.nodes.append((node, code))
            if code == 0:
                return self._outputs(template)
            if code in (2, 3, 4):
                break
        return None

    def _mounted(self, template: dict[str, Any]) -> dict[str, str]:
        """The files of the policy object, where the pod sees them."""
        places = {m["name"]: m["mountPath"] for m in template["container"]["volumeMounts"]}
        files = {}
        for volume in template["volumes"]:
            source = volume.get("configMap")
            if source and source["name"] == self.policy["metadata"]["name"]:
                for item in source["items"]:
                    content = self.policy["data"][item["key"]]
                    files[f"{places[volume['name']]}/{item['path']}"] = content
        return files

    def _environment(self, container: dict[str, Any]) -> dict[str, str]:
        """Paths that can be written to are those below `root`."""
        given = {each["name"]: each["value"] for each in container["env"]}
        return {name: re.sub("^/tmp", str(self.root), value) for name, value in given.items()}

    def _outputs(self, template: dict[str, Any]) -> dict[str, str]:
        outputs = {}
        for each in template.get("outputs", {}).get("parameters", []):
            path = Path(re.sub("^/tmp", str(self.root), each["valueFrom"]["path"]))
            found = path.read_text() if path.exists() else each["valueFrom"]["default"]
            outputs[each["name"]] = found
        return outputs


def _filled(part: Any, scope: dict[str, str]) -> Any:
    """A template with its variables filled in; Argo fails on one that is not known, too."""

    def value(match: re.Match[str]) -> str:
        return json.dumps(str(scope[match[1]]))[1:-1]

    return json.loads(re.sub(r"\{\{([\w.-]+)\}\}", value, json.dumps(part)))


def _holds(when: str) -> bool:
    left, operator, right = when.split()
    assert operator in ("==", "!="), when
    return (left == right) is (operator == "==")
