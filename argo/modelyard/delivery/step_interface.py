"""What `modelyard release step` and the workflow that runs it agree on.

Names of steps and nodes, exit codes, and the variables by which a pod is told where files are.
"""

from enum import StrEnum

from modelyard.documents.record import Decision

OUTPUTS_VARIABLE = "MODELYARD_OUTPUTS"
"""a folder that `deploy` writes its outputs to, a file each"""
APPROVE = "approve"
"""node of the workflow that a person resumes"""
EXIT: dict[Decision | None, int] = {
    None: 0, "promoted": 0, "bootstrapped": 0, "rolled_back": 2, "held": 3,
}  # fmt: skip
"""exit codes, by what was decided"""
CHANGED = 4
"""exit code of a step that finds the record or the policy changed by hand"""
CREDENTIALS_VARIABLE = "MODELYARD_GIT_CREDENTIALS"
"""a folder with `token` (and `username`), or with `ssh-privatekey` and `known_hosts`"""


class StepName(StrEnum):
    deploy = "deploy"
    shadow = "shadow"
    canary = "canary"
    watch = "watch"
    promote = "promote"
    rollback = "rollback"


class Next(StrEnum):
    """What is left to do after `deploy`."""

    done = "done"
    approve = "approve"
    """there is nothing to compare with, and a person says when it serves"""
    compare = "compare"
