"""The release record: one append-only JSON-lines file per release attempt."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from modelyard.documents.errors import UserError

Decision = Literal["bootstrapped", "promoted", "rolled_back", "held"]
Phase = Literal["preflight", "deploy", "shadow", "canary", "promote", "rollback", "done"]


APPEND_ONLY = (
    "a record is append-only: restore it, or say which version serves (N), and what can't be read "
    "is set aside: `modelyard release adopt --env ENV --version N`"
)
"""what to do about one that was edited"""


class Changed(UserError):
    """What a release rests on, its record or its policy, is not what it was: to try again does not
    help, and meanwhile nobody looks after the candidate's users."""


class ReleaseEvent(BaseModel):
    """One line of a record. `decision` is set in the last line only."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    time: float
    """seconds since the epoch"""
    release: str
    """the record's name"""
    sequence: int
    """0, 1, 2 … without gaps"""
    candidate: int
    stable: int | None
    """the version that serves users when the event is written; the candidate once it holds 100 %"""
    phase: Phase
    weight: int
    """per cent of live traffic that goes to the candidate"""
    policy: dict[str, Any] | None = None
    """by which the release is decided; in the first line only, as the next three"""
    policy_hash: str | None = None
    """SHA-256 of the file that the policy was read from, hexadecimal"""
    digest: str | None = None
    """of the candidate's image; None where it is not known, or there is no image"""
    workflow: str | None = None
    """that began the release; None where a person did"""
    evidence: dict[str, Any] | None = None
    verdicts: tuple[dict[str, Any], ...] = ()
    """of the gates at this look, e-values included"""
    decision: Decision | None = None
    reason: str = ""


def read_record(path: Path) -> list[ReleaseEvent]:
    """The events of one record, oldest first.

    A last line without its newline was cut short by a crash and is left out.

    Raises:
        Changed: a line is no event, or the sequence has a gap (the file was edited).
    """
    lines = path.read_text().split("\n")[:-1]
    events = []
    for number, line in enumerate(lines, start=1):
        try:
            event = ReleaseEvent.model_validate_json(line)
        except ValidationError as error:
            first = error.errors()[0]
            what = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
            raise Changed(f"{path}:{number}: not a release event ({what})") from None
        if event.sequence != number - 1:
            raise Changed(
                f"{path}:{number}: event {event.sequence} where {number - 1} was due; {APPEND_ONLY}"
            )
        events.append(event)
    return events


def releases(folder: Path) -> list[list[ReleaseEvent]]:
    """All records of a folder, oldest release first."""
    records = [read_record(path) for path in folder.glob("*.jsonl")]
    return sorted((r for r in records if r), key=lambda r: (r[0].time, r[0].release))


def image_digest(releases: Sequence[Sequence[ReleaseEvent]], version: int) -> str | None:
    """Of a version's image, by its newest release that knew it; None if none did.

    Args:
        releases: oldest first.
    """
    found = (r[0].digest for r in reversed(releases) if r[0].candidate == version)
    return next((digest for digest in found if digest), None)


def stable_version(folder: Path) -> int | None:
    """The version that serves users now, by the newest event; None before any release."""
    done = releases(folder)
    return done[-1][-1].stable if done else None
