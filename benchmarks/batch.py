"""Batch inference against a bare polars and ONNX Runtime loop, and its memory, in one run.

    python -m benchmarks.batch [--rounds N] [--json]

Both are processes that read the features of the 336,775 valid flights from Parquet, score them
by one package and write them with their scores. Seconds are from start to end, imports
included, medians over interleaved rounds.
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
from typing import Any

from benchmarks.orchestration import _render
from modelyard.cli import script

BARE = """
import json, sys
from pathlib import Path
import numpy as np, onnxruntime, polars as pl

package, rows, output = map(Path, sys.argv[1:])
inputs = json.loads((package / "signature.json").read_text())["inputs"]
numbers = [i["name"] for i in inputs if i["kind"] == "number"]
codes = [
    pl.col(i["name"]).replace_strict(i["values"], list(range(1, len(i["values"]) + 1)),
                                     default=0, return_dtype=pl.Int64)
    for i in inputs if i["kind"] == "category"
]
session = onnxruntime.InferenceSession(package / "model.onnx", providers=["CPUExecutionProvider"])
frame = pl.read_parquet(rows)
known = frame.select(pl.col(numbers).cast(pl.Float32).fill_null(np.nan)).to_numpy(order="c")
listed = frame.select(codes).to_numpy(order="c")
scores = []
for start in range(0, len(frame), 16384):
    chosen = slice(start, start + 16384)
    given = {"numbers": known[chosen], "categories": listed[chosen]}
    scores.append(session.run(None, given)[0])
frame.with_columns(score=np.concatenate(scores)).write_parquet(output)
"""
PREPARE = """
import sys
from pathlib import Path
import polars as pl
from flight_delay.features import SIGNATURE, TARGET, features
from flight_delay.network import Network, score
from flight_delay.train import Settings
from modelyard.pipeline.data.tensors import encode
from modelyard.serving.testing import write_package
import torch

folder = Path(sys.argv[1])
valid = pl.scan_parquet(".modelyard/data/valid/*.parquet")
rows = features(valid).drop(TARGET).collect()
rows.write_parquet(folder / "rows-1.parquet")
pl.concat([rows] * 10).write_parquet(folder / "rows-10.parquet")

class Scored(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.network = Network(SIGNATURE, Settings())
        self.network.standardise.fit(encode(rows, SIGNATURE)[0])

    def forward(self, numbers, categories):
        return score(self.network(numbers, categories))

write_package(folder / "1", SIGNATURE, graph=Scored().eval())
"""
BOUNDS = {"rows_a_second_over_bare_loop": (0.7, True), "memory_of_ten_times_the_rows": (1.2, False)}
"""figure → (bound, whether more is better)"""


class Bench:
    """An untrained network of the template on the flights' features, once and ten times."""

    def __init__(self, folder: Path) -> None:
        self.folder, repo = folder, _render(folder)
        env = {**os.environ, "PYTHONPATH": str(repo / "src"), "DAGSTER_HOME": f"{repo}/.dagster"}
        data = [script(), "train", "--assets", "raw,valid,quarantine"]
        for command in (data, [sys.executable, "-c", PREPARE, str(folder)]):
            done = subprocess.run(command, cwd=repo, env=env, capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stdout + done.stderr)

    def measure(self, command: list[str | Path], times: int) -> tuple[float, float, int]:
        """Seconds, CPU seconds and peak memory (kB) of a process, for so many times the rows."""
        files = [self.folder / name for name in ("1", f"rows-{times}.parquet", "scores.parquet")]
        began = time.perf_counter()
        running = subprocess.Popen(
            [*command, *files], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        _, status, usage = os.wait4(running.pid, 0)
        seconds = time.perf_counter() - began
        running.returncode = status
        assert running.stderr is not None
        said = running.stderr.read().decode()
        running.stderr.close()
        if status:
            sys.exit(said)
        return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    sides: dict[str, list[str | Path]] = {
        "modelyard": [script(), "score"],
        "bare loop": [sys.executable, "-c", BARE],
    }
    found: dict[tuple[str, int], list[tuple[float, float, int]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        for _ in range(given.rounds):
            for times in (1, 10):
                for name, command in sides.items():
                    found.setdefault((name, times), []).append(bench.measure(command, times))
    medians = {}
    for (name, times), runs in found.items():
        seconds, cpu, peak = (statistics.median(values) for values in zip(*runs, strict=True))
        medians[name, times] = seconds, peak
        rate = times * 336_775 / seconds
        print(
            f"{name:10} {times:3} × {seconds:6.2f} s {cpu:6.2f} s of CPU "
            f"{rate:10,.0f} rows/s {peak / 1024:7,.0f} MiB"
        )
    values = {
        "rows_a_second_over_bare_loop": medians["bare loop", 1][0] / medians["modelyard", 1][0],
        "memory_of_ten_times_the_rows": medians["modelyard", 10][1] / medians["modelyard", 1][1],
    }
    figures: dict[str, dict[str, Any]] = {}
    for name, (bound, more) in BOUNDS.items():
        ok = values[name] >= bound if more else values[name] <= bound
        figures[name] = {"value": round(values[name], 3), "bound": bound, "ok": ok}
        print(f"{name:30} {values[name]:6.3f}  bound {bound}  {ok}")
    ok = all(figure["ok"] for figure in figures.values())
    if given.json:
        machine = f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
        print(json.dumps({"ok": ok, "machine": machine, "figures": figures}))
    sys.exit(not ok)


if __name__ == "__main__":
    main()
