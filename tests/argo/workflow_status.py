"""What Argo tells of a workflow and its nodes."""

from typing import Any

NAME = "flight-delay-v2-x7k2p"


def node(name: str, phase: str, code: int | None = None, kind: str = "Retry") -> dict[str, Any]:
    made = {"id": f"{NAME}-{name}", "name": f"{NAME}.{name}", "displayName": name, "type": kind}
    made |= {"phase": phase, "startedAt": "2026-11-21T05:00:00Z"}
    if code is not None:
        made |= {"outputs": {"exitCode": str(code)}, "message": f"Error (exit code {code})"}
    return made


def status(phase: str, *nodes: dict[str, Any]) -> dict[str, Any]:
    return {"phase": phase, "nodes": {each["id"]: each for each in nodes}}
