"""A canary that decides by evidence, against two that decide by a schedule, all simulated.

    python -m benchmarks.canary [--runs N] [--json]

The same requests meet every tool. N releases of a candidate in which nothing is wrong (a fifth of N
under fixed steps), and a fiftieth of N of everything else. What is simulated, and what is not:
docs/how-to/canary-benchmark.md.
"""

import argparse
import json
import os
import platform
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from benchmarks.canary.report import HEAD, figures, line
from benchmarks.canary.simulate import FAULTS, NO_CHANGE, OURS, TOOLS, Results, simulate
from benchmarks.canary.traffic import Fault


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=10_000, help="releases without a fault")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    began = time.perf_counter()
    results = _results(given.runs)
    print(f"{given.runs} runs in {time.perf_counter() - began:.0f} s")
    found = figures(results)
    for name, figure in found.items():
        if not figure["ok"]:
            print(f"missed: {name} is {figure['value']}, bound {figure['bound']}", file=sys.stderr)
    ok = all(figure["ok"] for figure in found.values())
    if given.json:
        machine = f"{platform.machine()}, {os.cpu_count()} cores"
        print(json.dumps({"ok": ok, "machine": machine, "figures": found}))
    sys.exit(not ok)


def _results(runs: int) -> Results:
    results: Results = {}
    print(HEAD, flush=True)
    with ProcessPoolExecutor() as executor:
        for fault in FAULTS:
            for tool in TOOLS:
                results[fault.name, tool] = simulate(
                    executor, tool, fault, _runs(runs, tool, fault)
                )
                print(line(fault, tool, results), flush=True)
    return results


def _runs(runs: int, tool: str, fault: Fault) -> int:
    """A false alarm is rare, and has to be counted; what a fault costs is a mean."""
    if fault is NO_CHANGE and tool in OURS:
        return runs if tool == TOOLS[0] else max(1, runs // 5)
    return max(1, runs // 50)


if __name__ == "__main__":
    main()
