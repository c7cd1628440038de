"""A release that was rolled back in production, and what is found of it in Git."""

from pathlib import Path
from typing import Any

from support import run

from modelyard.documents import ReleaseEvent

DIGEST = "sha256:" + "1" * 64
BRANCH = "modelyard/production-20261121T050000-v2"


def event(sequence: int, **changes: Any) -> ReleaseEvent:
    fields = {"time": 1.8e9 + sequence, "release": "20261121T050000-v2", "sequence": sequence}
    fields |= {"candidate": 2, "stable": 1, "phase": "canary", "weight": 5}
    return ReleaseEvent.model_validate(fields | changes)


VERDICT = {"gate": "errors", "outcome": "fail", "text": "9 of 90 failed", "e": 2000.0}
COUNTS = {"time": 1.0, "epoch": "1", "stable": {"requests": 900}}
RELEASE = [
    event(0, phase="preflight", weight=0, digest=DIGEST, reason="version 2 against stable 1"),
    event(1, reason="all gates pass"),
    event(2, reason="still looking"),
    event(
        3,
        phase="rollback",
        weight=0,
        reason="errors: 9 of 90 failed",
        verdicts=[VERDICT],
        evidence={"counts": COUNTS | {"candidate": {"requests": 90, "failures": 9}}},
    ),
    event(4, phase="done", weight=0, decision="rolled_back", reason="errors: 9 of 90 failed"),
]


def branches(origin: Path) -> list[str]:
    return run("git", "branch", "--format=%(refname:short)", cwd=origin).split()
