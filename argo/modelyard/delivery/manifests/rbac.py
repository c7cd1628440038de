"""Who may do what: the roles of releases, and what a Workflow that is submitted may say."""

from typing import Any

from modelyard.delivery.manifests.objects import (
    RELEASE,
    Manifest,
)
from modelyard.delivery.manifests.workflow_template import MANAGED, release_template_name
from modelyard.delivery.policy import DIGEST
from modelyard.documents.version import versioned_name


def release_role() -> Manifest:
    """What a release may do, in the namespaces of the models that bind it."""
    made = ["create", "delete", "get", "patch"]
    return _cluster_role(
        release_template_name(),
        [
            _rule("apps", "deployments", [*made, "list"]),
            _rule("", "services", made),
            _rule("autoscaling", "horizontalpodautoscalers", made),
            _rule("gateway.networking.k8s.io", "httproutes", made),
            _rule("", "configmaps", ["create", "get", "list", "update"]),  # the record
            _rule("coordination.k8s.io", "leases", ["create", "get", "update"]),
            _rule("", "pods", ["list"]),  # to say why a candidate does not get ready
            _rule("", "serviceaccounts", ["get"]),
            _rule("argoproj.io", "workflows", ["get"]),  # to see that the promotion is approved
            # By this Argo's executor tells the outcome of a node.
            _rule("argoproj.io", "workflowtaskresults", ["create", "patch"]),
        ],
    )


def submit_role() -> Manifest:
    """What the pipeline that merges a release PR may do: start a release and watch it."""
    return _cluster_role(
        versioned_name("modelyard-submit"),
        [_rule("argoproj.io", "workflows", ["create", "get", "list", "watch"])],
    )


def submit_policy() -> list[Manifest]:
    """What a Workflow in a model's namespace may say; the API server refuses any other.

    Argo's own `templateReferencing: Strict` lets whoever submits choose the entry point, what
    becomes of pods, and a spec in the status that it takes as it is. The namespaces are those
    with a policy object that names this template.
    """
    name = release_template_name()
    rules = {
        "its spec may have arguments and the workflowTemplateRef, and nothing else":
            "variables.spec.all(key, key in ['arguments', 'workflowTemplateRef'])",
        f"its workflowTemplateRef has to be {name}, with clusterScope: true":
            "size(variables.reference) == 2"
            f" && variables.reference.name == '{name}' && variables.reference.clusterScope == true",
        "its arguments have to be the parameters version and digest, each a name and a value":
            "size(variables.given) == 1 && size(variables.given.parameters) == 2"
            " && variables.given.parameters.all(p, p.all(key, key in ['name', 'value']))",
        "the parameter version has to be a number from 1 on":
            _parameter("version", "^[1-9][0-9]{0,8}$"),
        "the parameter digest has to be sha256: and 64 digits, or empty":
            _parameter("digest", f"{DIGEST}|^$"),
        "it may have no status: that is the controller's to write":
            "!has(object.status) || dyn(object.status).all(key, dyn(object.status)[key] == null)",
    }  # fmt: skip
    policy = {
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "failurePolicy": "Fail",
        # With the API's defaults: a second manager of the object then asks for the same.
        "matchConstraints": {
            "matchPolicy": "Equivalent",
            "namespaceSelector": {},
            "objectSelector": {},
            "resourceRules": [
                {
                    "apiGroups": ["argoproj.io"],
                    "apiVersions": ["*"],
                    "operations": ["CREATE"],
                    "resources": ["workflows"],
                    "scope": "*",
                }
            ],
        },
        "variables": [
            {"name": "elsewhere", "expression": f"params.data.template != '{name}'"},
            {"name": "spec", "expression": "dyn(object.spec)"},
            {"name": "given", "expression": _field("arguments")},
            {"name": "reference", "expression": _field("workflowTemplateRef")},
        ],
        "validations": [
            {
                "expression": f"variables.elsewhere || ({rule})",
                "message": f"not a release of this namespace's model: {message}",
                "reason": "Forbidden",
            }
            for message, rule in rules.items()
        ],
    }
    binding = {
        "policyName": name,
        "paramRef": {"name": RELEASE, "parameterNotFoundAction": "Allow"},
        "validationActions": ["Deny"],
    }
    return [
        _shared("admissionregistration.k8s.io/v1", kind, name, spec=spec)
        for kind, spec in (
            ("ValidatingAdmissionPolicy", policy),
            ("ValidatingAdmissionPolicyBinding", binding),
        )
    ]


def _field(name: str) -> str:
    return f"'{name}' in variables.spec ? variables.spec['{name}'] : dyn({{}})"


def _parameter(name: str, pattern: str) -> str:
    given = f"p.name == '{name}' && string(p.value).matches('{pattern}')"
    return f"variables.given.parameters.exists(p, {given})"


def _cluster_role(name: str, rules: list[Manifest]) -> Manifest:
    return _shared("rbac.authorization.k8s.io/v1", "ClusterRole", name, rules=rules)


def _shared(api_version: str, kind: str, name: str, **content: Any) -> Manifest:
    metadata = {"name": name, "labels": MANAGED}
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **content}


def _rule(group: str, resource: str, verbs: list[str]) -> Manifest:
    return {"apiGroups": [group], "resources": [resource], "verbs": verbs}


def gateway_access() -> list[Manifest]:
    """All service accounts may read Gateways, which hold no secrets: a release asks one for its
    address, in a namespace that no model's RoleBinding reaches."""
    role = _cluster_role(
        versioned_name("modelyard-gateways"),
        [_rule("gateway.networking.k8s.io", "gateways", ["get"])],
    )
    group = "rbac.authorization.k8s.io"
    binding = {
        "apiVersion": f"{group}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": role["metadata"],
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": role["metadata"]["name"]},
        "subjects": [{"apiGroup": group, "kind": "Group", "name": "system:serviceaccounts"}],
    }
    return [role, binding]
