"""Where Dagster's steps run: in this process, or in a pod each, with what they ask for."""

import os
from typing import Any

import dagster as dg

STEPS = "MODELYARD_STEPS"
"""environment variable: `kubernetes` where a pod for each step is wanted"""


def executor() -> dg.ExecutorDefinition:
    """On a laptop steps take seconds, and a process for each of them would take as long again.

    Raises:
        dg.DagsterInvalidDefinitionError: MODELYARD_STEPS is none of the two.
    """
    wanted = os.environ.get(STEPS, "local")
    if wanted == "kubernetes":
        from dagster_k8s import k8s_job_executor

        return k8s_job_executor
    if wanted != "local":
        raise dg.DagsterInvalidDefinitionError(f"{STEPS} is local or kubernetes, not {wanted}")
    return dg.in_process_executor


def pod(*, cpu: str, memory: str) -> dict[str, Any]:
    """Arguments of an asset whose step gets a pod of this size: `@dg.asset(**pod(…))`.

    There is no limit of cpu: a step may use what is idle. Without effect on a laptop.
    """
    resources = {"requests": {"cpu": cpu, "memory": memory}, "limits": {"memory": memory}}
    return {"op_tags": {"dagster-k8s/config": {"container_config": {"resources": resources}}}}
