"""The release as Argo Workflows runs it.

The template holds no release logic: each node is one idempotent `modelyard release step`,
which reads the record, looks at the evidence and decides. Argo gives durability, retries,
an exit handler and a picture. All that a release runs with stands in the template and in the
policy object of the namespace; the Workflow names a version and its image's digest.
"""

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from modelyard.delivery.manifests.objects import (
    GIT_SECRET,
    RELEASE,
    RELEASE_PODS,
    RESTRICTED_CONTAINER,
    Manifest,
    Target,
    to_yaml,
)
from modelyard.delivery.policy import RELEASE_FILE
from modelyard.delivery.step_interface import (
    APPROVE,
    CHANGED,
    CREDENTIALS_VARIABLE,
    EXIT,
    OUTPUTS_VARIABLE,
    Next,
)
from modelyard.documents.version import versioned_name

if TYPE_CHECKING:
    from hera.workflows import ClusterWorkflowTemplate, Container, Parameter, Steps

WORKING_DIR = "/modelyard"
MANAGED = {"app.kubernetes.io/managed-by": "modelyard"}
_PARAMETER = "{{{{workflow.parameters.{}}}}}"
_INPUT = "{{{{inputs.parameters.{}}}}}"
_OUTPUT = "{{{{steps.deploy.outputs.parameters.{}}}}}"
_OUTPUTS = "/tmp/outputs"
_CREDENTIALS = "/credentials"
_POD_UID = 65532
_DEADLINE_S = 3600
"""of a node whose time the policy does not bound, or does not bound yet"""
_WITHOUT_OUTPUTS = {"next": "compare", "approval": "true", "deadline": str(_DEADLINE_S)}
"""what follows a deployment that said nothing: nothing that goes further than it should"""
# Where a quota asks for all four. A step's start is the most that it has to compute.
_STEP = {"cpu_request": "100m", "cpu_limit": 1, "memory_request": "256Mi", "memory_limit": "512Mi"}
_ARGO = {
    "requests": {"cpu": "10m", "memory": "64Mi"},
    "limits": {"cpu": "500m", "memory": "256Mi"},
}


def release_template_name() -> str:
    return versioned_name(RELEASE)


def release_template(delivery_image: str) -> "ClusterWorkflowTemplate":
    """deploy, and where there is something to compare with: shadow → canary → approval → promote;
    at the end, unless that succeeded, roll back and write the outcome back to Git.

    The later nodes stand in a template of their own: its inputs are the outputs of `deploy`,
    and nothing refers to the outputs of a node that was skipped.
    """
    from hera.workflows import ClusterWorkflowTemplate, Parameter, Suspend
    from hera.workflows.models import Metadata, Mutex, PodGC, Synchronization, TTLStrategy

    node = functools.partial(_node, delivery_image)
    return ClusterWorkflowTemplate(
        name=release_template_name(),
        labels=MANAGED,
        entrypoint="release",
        on_exit="outcome",
        arguments=[
            Parameter(name="version", description="to release"),
            Parameter(name="digest", description="of its image, sha256:…; empty: by its tag"),
        ],
        templates=[
            _release(),
            _rollout(),
            _approval(),
            Suspend(name="approve"),
            _outcome(),
            node("deploy", _step("deploy"), outputs=tuple(_WITHOUT_OUTPUTS)),
            node("step", _step(_INPUT.format("step")), inputs=["step", "deadline"],
                  deadline=_INPUT.format("deadline")),
            node("watch", _step("watch"), deadline=None),
            node("rollback", _step("rollback"), retries=8),
            node("write-back", ["release", "write-back", *_version()], retries=8, git=True),
        ],
        # Two releases of one environment would fight over its route.
        synchronization=Synchronization(mutexes=[Mutex(name=RELEASE)]),
        service_account_name=RELEASE,
        security_context=_pod_security(),
        pod_metadata=Metadata(labels=RELEASE_PODS),
        pod_spec_patch=_argos_own_containers(),
        pod_gc=PodGC(strategy="OnWorkflowSuccess"),
        ttl_strategy=TTLStrategy(seconds_after_completion=14 * 24 * 3600),
    )  # fmt: skip


def release_workflow(target: Target) -> Manifest:
    """The small object that starts the release of a target's desired version."""
    arguments = {"version": str(target.version), "digest": target.digest or ""}
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "metadata": {
            "generateName": f"{target.name(target.version)}-",
            "namespace": target.namespace,
        },
        "spec": {
            "arguments": {"parameters": [{"name": k, "value": v} for k, v in arguments.items()]},
            "workflowTemplateRef": {"clusterScope": True, "name": release_template_name()},
        },
    }


def _step(name: str) -> list[str]:
    """The arguments of `modelyard` for one step of a release."""
    digest, workflow = _PARAMETER.format("digest"), "{{workflow.name}}"
    return ["release", "step", name, *_version(), "--digest", digest, "--workflow", workflow]


def _version() -> list[str]:
    return ["--candidate", _PARAMETER.format("version")]


def _release() -> "Steps":
    from hera.workflows import Parameter, Step, Steps

    outputs = [Parameter(name=name, value=_OUTPUT.format(name)) for name in _WITHOUT_OUTPUTS]
    rollout = Step(
        name="rollout",
        template="rollout",
        arguments=outputs,
        when=_OUTPUT.format("next") + f" != {Next.done}",
    )
    return Steps(name="release", sub_steps=[Step(name="deploy", template="deploy"), rollout])


def _rollout() -> "Steps":
    from hera.workflows import Parameter, Step, Steps

    def step(name: str, **options: Any) -> Step:
        given = {"step": name, "deadline": _INPUT.format("deadline")}
        arguments = [Parameter(name=key, value=value) for key, value in given.items()]
        return Step(name=name, template="step", arguments=arguments, **options)

    # The canary is one node, whatever its weights: its log and the record show them. It goes on
    # from the record when it is tried again.
    comparable = _INPUT.format("next") + f" == {Next.compare}"
    walk: list[Any] = [
        step("shadow", when=comparable),
        step("canary", when=comparable),
        Step(name="approval", template="approval", when=_INPUT.format("approval") + " == true"),
        step("promote"),
    ]
    inputs = [Parameter(name=name) for name in _WITHOUT_OUTPUTS]
    return Steps(name="rollout", inputs=inputs, sub_steps=walk)


def _approval() -> "Steps":
    """A person is waited for, and the candidate, which serves users, is watched meanwhile."""
    from hera.workflows import Step, Steps
    from hera.workflows.steps import Parallel

    both: list[Any] = [Step(name=APPROVE, template="approve"), Step(name="watch", template="watch")]
    return Steps(name="approval", sub_steps=[Parallel(sub_steps=both)])


def _outcome() -> "Steps":
    from hera.workflows import Step, Steps

    failed = '"{{workflow.status}}" != "Succeeded"'
    back: list[Any] = [
        Step(name=name, template=name, when=failed) for name in ("rollback", "write-back")
    ]
    return Steps(name="outcome", sub_steps=back)


def _node(
    image: str,
    name: str,
    arguments: list[str],
    inputs: Sequence[str] = (),
    outputs: Sequence[str] = (),
    retries: int = 5,
    deadline: int | str | None = _DEADLINE_S,
    git: bool = False,
) -> "Container":
    """Args: git: whether it may see the Secret with the credentials for Git, if there is one."""
    from hera.workflows import Container, EmptyDirVolume, Env, Parameter, Resources, SecretVolume
    from hera.workflows.models import SecurityContext

    environment = [Env(name="HOME", value="/tmp")]
    volumes: list[Any] = [EmptyDirVolume(name="scratch", mount_path="/tmp"), _model_repo()]
    if outputs:
        environment.append(Env(name=OUTPUTS_VARIABLE, value=_OUTPUTS))
    if git:
        volumes.append(
            SecretVolume(name="git", secret_name=GIT_SECRET, mount_path=_CREDENTIALS, optional=True)
        )
        environment.append(Env(name=CREDENTIALS_VARIABLE, value=_CREDENTIALS))
    return Container(
        name=name,
        inputs=[Parameter(name=each) for each in inputs],
        outputs=[_output(each) for each in outputs],
        image=image,
        command=["modelyard"],
        args=arguments,
        working_dir=WORKING_DIR,
        env=environment,
        active_deadline_seconds=deadline,
        retry_strategy=_retries(retries),
        resources=Resources(**_STEP),
        security_context=SecurityContext.model_validate(RESTRICTED_CONTAINER),
        volumes=volumes,
    )


def _output(name: str) -> "Parameter":
    from hera.workflows import Parameter
    from hera.workflows.models import ValueFrom

    given = ValueFrom(path=f"{_OUTPUTS}/{name}", default=_WITHOUT_OUTPUTS[name])
    return Parameter(name=name, value_from=given)


def _model_repo() -> Any:
    """As much of a model repo as a step reads: the namespace's policy object, as files.

    Where it is missing, a step says so; a pod would only wait for it.
    """
    from hera.workflows import ConfigMapVolume
    from hera.workflows.models import KeyToPath

    files = {"pyproject.toml": "pyproject.toml", RELEASE_FILE.name: str(RELEASE_FILE)}
    return ConfigMapVolume(
        name=RELEASE,
        mount_path=WORKING_DIR,
        items=[KeyToPath(key=key, path=path) for key, path in files.items()],
        optional=True,
    )


def _argos_own_containers() -> str:
    """What those need where Pod Security is "restricted", or a quota asks for bounds."""
    given = {"securityContext": RESTRICTED_CONTAINER, "resources": _ARGO}
    both = {"initContainers": ["init"], "containers": ["wait"]}
    patch = {kind: [{"name": name, **given} for name in names] for kind, names in both.items()}
    return to_yaml([patch], "")


def _retries(limit: int) -> Any:
    """A decision stands, as does what was changed by hand; all else may be tried again."""
    from hera.workflows import RetryStrategy
    from hera.workflows.models import Backoff

    final = [EXIT["rolled_back"], EXIT["held"], CHANGED]
    return RetryStrategy(
        limit=limit,
        retry_policy="Always",
        expression=f'lastRetry.status == "Error" || asInt(lastRetry.exitCode) not in {final}',
        backoff=Backoff(duration="5s", factor="2"),
    )


def _pod_security() -> Any:
    from hera.workflows.models import PodSecurityContext, SeccompProfile

    return PodSecurityContext(
        run_as_non_root=True,
        run_as_user=_POD_UID,
        run_as_group=_POD_UID,
        fs_group=_POD_UID,
        seccomp_profile=SeccompProfile(type="RuntimeDefault"),
    )
