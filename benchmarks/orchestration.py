"""What Dagster adds: `make train`'s data steps against the same functions called bare.

    python -m benchmarks.orchestration [--runs N] [--json]

Both read the 336,776 flights, enforce the contract, make features and split, each in a
process of its own, interleaved. A third process does so by Dagster's own command line.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from modelyard.cli import script

ROOT = Path(__file__).parents[1]
STEPS = "raw,valid,quarantine,features,train_set,validation_set,test_set,replay"
BARE = """
from modelyard.pipeline.data.contract import enforce, write
from modelyard.pipeline.data.content import content_hash
from modelyard.pipeline.data.splits import join_partitions, write_replay
from modelyard.pipeline.data.features import write_features
from modelyard.pipeline.data.source import Source
from flight_delay.contract import Flight
from flight_delay.data import read
from flight_delay.features import SIGNATURE, features
from flight_delay.model import project

import polars as pl

settings, workspace = project.config(), project.workspace
source = Source.from_settings(settings.data, workspace.root)
for month in settings.data.months:
    rows = read(month, source)
    raw = workspace.partition("raw", month)
    raw.parent.mkdir(parents=True, exist_ok=True)
    rows.write_parquet(raw)
    content_hash(rows)
    found = enforce(pl.read_parquet(raw), Flight, month)
    valid = workspace.partition("valid", month)
    write(found, valid, workspace.partition("quarantine", month))
    write_features(valid, workspace.partition("features", month), features, SIGNATURE)
for name, months in settings.split.parts().items():
    join_partitions(workspace, months, name)
write_replay(workspace, SIGNATURE)
"""
BOUND = 2.5
"""of the ratio to the bare functions; the absolute cost is Dagster's import and its events"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        repo = _render(Path(folder))
        commands: dict[str, list[str | Path]] = {
            "bare functions": [sys.executable, "-c", BARE],
            "make train": [script(), "train", "--assets",
                           " or ".join(f'key:"{step}"' for step in STEPS.split(","))],
            "dg launch": [Path(sys.executable).with_name("dg"), "launch", "--assets", STEPS,
                          "--partition-range", "2013-01...2013-12"],
        }  # fmt: skip
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(given.runs):
            for name, command in commands.items():
                seconds[name].append(_time(command, repo))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratio = medians["make train"] / medians["bare functions"]
    for name, median in medians.items():
        print(f"{name:16} {median:6.2f} s  {median / medians['bare functions']:5.2f} ×")
    figures = {
        "make_train_over_bare": {"value": round(ratio, 3), "bound": BOUND, "ok": ratio <= BOUND},
    }
    if given.json:
        machine = f"{platform.machine()}, {os.cpu_count()} cores"
        print(json.dumps({"ok": ratio <= BOUND, "machine": machine, "figures": figures}))
    sys.exit(ratio > BOUND)


def _render(folder: Path) -> Path:
    repo = folder / "flight-delay"
    subprocess.run(
        [Path(sys.executable).with_name("copier"), "copy", "--quiet", "--defaults",
         "--vcs-ref", "HEAD", "--data", "project_name=flight-delay", "--data", "owner=acme",
         ROOT, repo],
        check=True, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    return repo


def _time(command: list[str | Path], repo: Path) -> float:
    environment = {
        **os.environ,
        "PYTHONPATH": str(repo / "src"),
        "DAGSTER_HOME": str(repo / ".dagster"),
    }
    began = time.perf_counter()
    done = subprocess.run(command, cwd=repo, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{command[:3]} gave {done.returncode}:\n{done.stdout}{done.stderr}")
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
