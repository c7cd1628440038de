"""What the release records say: the end of the lineage."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from modelyard.documents import releases


def newest_release(folder: Path) -> dict[str, Any]:
    """Figures of the newest release record, flat, for the asset's page.

    Before any release: only `decision: none yet`.
    """
    done = releases(folder)
    if not done:
        return {"decision": "none yet"}
    record = done[-1]
    last = record[-1]
    return {
        "serving_version": last.stable if last.stable is not None else "none",
        "candidate": last.candidate,
        "decision": last.decision or f"running: {last.phase} at {last.weight} %",
        "reason": last.reason,
        "release": last.release,
        "time": datetime.fromtimestamp(last.time, UTC).isoformat(timespec="seconds"),
        "seconds": round(last.time - record[0].time, 1),
        "releases": len(done),
    }


def cursor(folder: Path) -> str:
    """Changes with every event of the newest record."""
    done = releases(folder)
    return f"{done[-1][-1].release}:{done[-1][-1].sequence}" if done else ""
