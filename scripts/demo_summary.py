"""What the demo did: a table, `summary.json`, and whether it is what should have happened.

    python scripts/demo_summary.py build/demo

Reads what the model repo's own commands wrote: `train-N.json` of each training, and the
output of `modelyard release status --json` in `status.json`.
"""

import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

EXPECTED = ["bootstrapped", "promoted", "rolled_back"]


def main(folder: Path) -> None:
    trainings = [json.loads(path.read_text()) for path in sorted(folder.glob("train-*.json"))]
    releases = json.loads((folder / "status.json").read_text())["releases"]
    found = summary(trainings, releases)
    (folder / "summary.json").write_text(json.dumps(found, indent=2) + "\n")
    show(found)
    print(f"pictures: {folder / 'report.html'}")
    print(f"numbers:  {folder / 'summary.json'}")
    decisions = [release["decision"] for release in found["releases"]]
    if decisions != EXPECTED:
        sys.exit(f"the demo failed: the releases were {decisions}, not {EXPECTED}")


def summary(trainings: list[dict[str, Any]], releases: list[dict[str, Any]]) -> dict[str, Any]:
    """`test_auc` is the newest version's that was promoted; seconds are sums over the demo."""
    by_version = {training["version"]: training for training in trainings}
    serving = [r["version"] for r in releases if r["decision"] in ("bootstrapped", "promoted")]
    best = by_version[serving[-1]] if serving else trainings[-1]
    return {
        "rows": best["rows"],
        "ranks": best["ranks"],
        "test_auc": round(best["metrics"]["auc"], 4),
        "releases": [
            {
                "version": release["version"],
                "decision": release["decision"],
                "reason": release["reason"],
                "requests": release["requests"],
                "failed_requests": release["failed_requests"],
                "seconds": release["seconds"],
                "test_auc": round(by_version[release["version"]]["metrics"]["auc"], 4),
            }
            for release in releases
        ],
        "seconds": {
            "train": round(sum(training["seconds"] for training in trainings), 1),
            "release": round(sum(release["seconds"] for release in releases), 1),
        },
        "stable_downtime_s": sum(release["stable_downtime_s"] for release in releases),
    }


def show(found: dict[str, Any]) -> None:
    table = Table(title=f"{found['rows']:,} flights, {found['ranks']} ranks")
    for column in ("version", "test AUC", "decision", "why"):
        table.add_column(column)
    for column in ("seconds", "requests", "errors users saw"):
        table.add_column(column, justify="right")
    for release in found["releases"]:
        table.add_row(
            str(release["version"]),
            f"{release['test_auc']:.4f}",
            release["decision"],
            release["reason"],
            f"{release['seconds']:.0f}",
            str(release["requests"]),
            str(release["failed_requests"]),
        )
    Console(width=110).print(table)
    down = found["stable_downtime_s"]
    print(f"stable was {'never down' if down == 0 else f'down for {down} s'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
