"""Published schemas, made strict, and the check of what a workflow refers to."""

import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from support import ROOT

CRDS = Path(os.environ.get("MODELYARD_CRDS", ROOT.parent / "shared" / "crds"))
OLDEST_KUBERNETES = "1.30"  # the first that has the preStop `sleep`
FILES = {
    "ClusterWorkflowTemplate": "argo-workflows-clusterworkflowtemplates.yaml",
    "Workflow": "argo-workflows-workflows.yaml",
    "HTTPRoute": "gateway-api-httproutes.yaml",
    "PodMonitor": "prometheus-operator-podmonitors.yaml",
}
# The API server knows the fields of metadata; a definition says only that it is an object.
METADATA = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string", "maxLength": 253},
        "generateName": {"type": "string", "maxLength": 58},
        "namespace": {"type": "string", "maxLength": 63},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}


def check(manifest: dict[str, Any]) -> None:
    """Hold one object against its published schema, unknown fields rejected.

    Raises:
        jsonschema.ValidationError: it does not fit.
    """
    if manifest["kind"] in FILES:
        jsonschema.Draft202012Validator(_definition(manifest["kind"])).validate(manifest)
    else:
        kubernetes_validate.validate(manifest, OLDEST_KUBERNETES, strict=True)


@cache
def _definition(kind: str) -> dict[str, Any]:
    path = CRDS / FILES[kind]
    if not path.exists():
        pytest.skip(f"{path} is not there: set MODELYARD_CRDS to a folder with the published CRDs")
    definition = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)
    versions = {v["name"]: v["schema"]["openAPIV3Schema"] for v in definition["spec"]["versions"]}
    served = "v1" if "v1" in versions else "v1alpha1"
    schema = strict(versions[served])
    schema["properties"]["metadata"] = METADATA
    group = definition["spec"]["group"]
    schema["properties"]["apiVersion"] = {"const": f"{group}/{served}"}
    return schema


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    """OpenAPI as the API server reads it with strict field validation, in JSON Schema."""
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    made = {k: v for k, v in schema.items() if not k.startswith("x-") and k != "description"}
    for key in ("properties", "patternProperties"):
        if key in made:
            made[key] = {name: strict(each) for name, each in made[key].items()}
    for key in ("items", "additionalProperties", "not"):
        if isinstance(made.get(key), dict):
            made[key] = strict(made[key])
    open_ended = schema.get("x-kubernetes-preserve-unknown-fields")
    if "properties" in made and "additionalProperties" not in made and not open_ended:
        made["additionalProperties"] = False
    return made


def documents(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """All objects of a folder's YAML files."""
    for path in sorted(folder.rglob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            yield path, document


def broken_references(template: dict[str, Any]) -> list[str]:
    """What a workflow template refers to and does not have: Argo's linter needs a server."""
    spec = template["spec"]
    names = [each["name"] for each in spec["templates"]]
    templates = dict(zip(names, spec["templates"], strict=True))
    problems = [f"two templates are named {name}" for name in _twice(names)]
    problems += [
        f"{field}: no template {spec[field]}"
        for field in ("entrypoint", "onExit")
        if spec[field] not in templates
    ]
    at_the_end = _reachable(spec["onExit"], templates)
    used = at_the_end | _reachable(spec["entrypoint"], templates)
    problems += [f"{name}: no step uses it" for name in templates if name not in used]
    known = {f"workflow.parameters.{p['name']}" for p in spec["arguments"]["parameters"]}
    for name, each in templates.items():
        status = {"workflow.status"} if name in at_the_end else set()
        made = _outputs_of_steps(each, templates)
        problems += _broken_template(each, known | {"workflow.name"} | status | made)
        for step in _steps(each):
            problems += _broken_call(f"{name}.{step['name']}", step, templates)
    # Not of a template: what all pods have.
    outside = {key: value for key, value in spec.items() if key != "templates"}
    problems += [f"spec: nothing is known as {v}" for v in sorted(_variables(outside) - known)]
    return problems


def _outputs_of_steps(template: dict[str, Any], templates: dict[str, dict[str, Any]]) -> set[str]:
    """What its steps hand on, if they are never skipped: else there may be none."""
    return {
        f"steps.{step['name']}.outputs.parameters.{output['name']}"
        for step in _steps(template)
        if "when" not in step
        for output in templates.get(step["template"], {}).get("outputs", {}).get("parameters", [])
    }


def _broken_template(template: dict[str, Any], known: set[str]) -> list[str]:
    name, inputs = template["name"], template.get("inputs", {})
    known = known | {f"inputs.parameters.{p['name']}" for p in inputs.get("parameters", [])}
    problems = [f"{name}: nothing is known as {v}" for v in sorted(_variables(template) - known)]
    volumes = {volume["name"] for volume in template.get("volumes", [])}
    mounts = template.get("container", {}).get("volumeMounts", [])
    problems += [f"{name}: no volume {m['name']}" for m in mounts if m["name"] not in volumes]
    mounted = {m["name"] for m in mounts}
    problems += [f"{name}: nothing mounts volume {v}" for v in sorted(volumes - mounted)]
    artifacts = inputs.get("artifacts", [])
    repeated = {
        "steps": [step["name"] for step in _steps(template)],
        "parameters": [p["name"] for p in inputs.get("parameters", [])],
        "artifacts": [a["name"] for a in artifacts],
        "paths": [a["path"] for a in artifacts] + [m["mountPath"] for m in mounts],
    }
    return problems + [
        f"{name}: two {kind} are {each}" for kind, all_ in repeated.items() for each in _twice(all_)
    ]


def _broken_call(where: str, step: dict[str, Any], templates: dict[str, Any]) -> list[str]:
    if step["template"] not in templates:
        return [f"{where}: no template {step['template']}"]
    problems = []
    for kind, gift in (("parameters", ("value",)), ("artifacts", ("raw", "optional"))):
        inputs = templates[step["template"]].get("inputs", {}).get(kind, [])
        given = {p["name"] for p in step.get("arguments", {}).get(kind, [])}
        needed = {p["name"] for p in inputs if not any(field in p for field in gift)}
        problems += [f"{where}: lacks argument {p}" for p in sorted(needed - given)]
        unknown = given - {p["name"] for p in inputs}
        problems += [f"{where}: unknown argument {p}" for p in sorted(unknown)]
    return problems


def _steps(template: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for group in template.get("steps", []) for step in group]


def _reachable(start: str, templates: dict[str, Any]) -> set[str]:
    if start not in templates:
        return set()
    found = {start}
    for step in _steps(templates[start]):
        found |= _reachable(step["template"], templates)
    return found


def _variables(part: Any) -> set[str]:
    """What stands between double braces anywhere in it."""
    return set(re.findall(r"{{\s*(.+?)\s*}}", yaml.safe_dump(part, width=10_000)))


def _twice(names: list[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})
