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
    templates = {each["name"]: each for each in spec["templates"]}
    declared = {p["name"] for p in spec["arguments"]["parameters"]}
    problems = [
        f"{field}: no template {spec[field]}"
        for field in ("entrypoint", "onExit")
        if spec[field] not in templates
    ]
    for name, each in templates.items():
        inputs = {p["name"] for p in each.get("inputs", {}).get("parameters", [])}
        problems += [f"{name}: no input {p}" for p in _used("inputs", each) - inputs]
        problems += [f"{name}: no parameter {p}" for p in _used("workflow", each) - declared]
        for step in (step for group in each.get("steps", []) for step in group):
            problems += _broken_call(f"{name}.{step['name']}", step, templates)
    return problems


def _broken_call(where: str, step: dict[str, Any], templates: dict[str, Any]) -> list[str]:
    if step["template"] not in templates:
        return [f"{where}: no template {step['template']}"]
    inputs = templates[step["template"]].get("inputs", {}).get("parameters", [])
    given = {p["name"] for p in step.get("arguments", {}).get("parameters", [])}
    needed = {p["name"] for p in inputs if "value" not in p}
    return [f"{where}: lacks argument {p}" for p in needed - given] + [
        f"{where}: unknown argument {p}" for p in given - {p["name"] for p in inputs}
    ]


def _used(scope: str, part: Any) -> set[str]:
    """Names in `{{<scope>.parameters.<name>}}` anywhere in a template."""
    return set(re.findall(rf"{{{{{scope}\.parameters\.([\w-]+)}}}}", yaml.safe_dump(part)))
