"""What the parts around the training loop cost: train.py against bare torch, in one run.

    python -m benchmarks.training [--rounds N] [--json]

On the 160,678 training flights of the template's example. Rows/s are those of the fastest
epoch of a process, medians over interleaved rounds.
"""

import argparse
import contextlib
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.orchestration import _render
from modelyard.cli import script
from modelyard.pipeline.data.tensors import Arrays
from modelyard.pipeline.launchers.local import TorchLauncher
from modelyard.pipeline.launchers.preparation import prepare
from modelyard.pipeline.storage.workspace import Workspace
from modelyard.pipeline.training.loader import Feed
from modelyard.pipeline.training.outcome import failure
from modelyard.pipeline.training.workdir import WEIGHTS, History, read_history

MODULE = "flight_delay.train"
EPOCHS = 6
BARE = """
import os, sys, time
import numpy as np, torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from flight_delay.features import SIGNATURE
from flight_delay.network import Network, loss
from flight_delay.train import Settings

folder, epochs, batch = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
dist.init_process_group("gloo")
rank, ranks = dist.get_rank(), dist.get_world_size()
def load(part):
    names = ("numbers", "categories", "target")
    return [torch.from_numpy(np.load(f"{folder}/{part}/{name}.npy")) for name in names]
train, validation = load("train"), load("validation")
torch.manual_seed(0)
network = Network(SIGNATURE, Settings())
network.standardise.fit(train[0].numpy())
model = DistributedDataParallel(network)
optimizer = torch.optim.AdamW(model.parameters(), lr=0.003, weight_decay=0.01)
rows, share, best = len(train[2]), batch // ranks, []
for epoch in range(epochs):
    began = time.perf_counter()
    model.train()
    order, total = torch.randperm(rows, generator=torch.Generator().manual_seed(epoch)), 0.0
    for step in range(rows // batch):
        chosen = order[(step * ranks + rank) * share:][:share]
        optimizer.zero_grad(set_to_none=True)
        value = loss(model(train[0][chosen], train[1][chosen]), train[2][chosen])
        value.backward()
        optimizer.step()
        total += value.item()
    network.eval()
    found = torch.zeros(())
    with torch.no_grad():
        for chosen in torch.arange(rank, len(validation[2]), ranks).split(batch):
            found += loss(network(validation[0][chosen], validation[1][chosen]),
                          validation[2][chosen]) * len(chosen)
    dist.all_reduce(found)
    best.append(rows / (time.perf_counter() - began))
if rank == 0:
    print(max(best))
dist.destroy_process_group()
"""
IMPORT = "import torch\n"


class Bench:
    """A rendered repo with its training arrays, and trainings of it in processes of their own."""

    def __init__(self, folder: Path) -> None:
        self.repo = _render(folder)
        self.workspace = Workspace(self.repo)
        sys.path.insert(0, str(self.repo / "src"))
        os.environ |= {
            "PYTHONPATH": str(self.repo / "src"),
            "DAGSTER_HOME": str(self.repo / ".dagster"),
        }
        config = self.repo / "config.yaml"
        config.write_text(config.read_text().replace("epochs: 20", "epochs: 1"))
        self.materialize("*train_set,*validation_set")
        (folder / "bare.py").write_text(BARE)
        (folder / "import.py").write_text(IMPORT)
        self.folder = folder

    def materialize(self, assets: str) -> float:
        began = time.time()
        command = [script(), "train", "--assets", assets]
        done = subprocess.run(command, cwd=self.repo, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stdout + done.stderr)
        return began

    def train(self, ranks: int, batch: int, epochs: int = EPOCHS, work: str = "") -> History:
        """train.py under torchrun with one thread a rank."""
        from flight_delay.features import SIGNATURE  # pyrefly: ignore
        from flight_delay.train import Settings  # pyrefly: ignore

        settings = Settings(ranks=ranks, batch_rows=batch, epochs=epochs, patience=epochs)
        folder = self.folder / (work or "work")
        if not work:
            data = self.workspace.dataset
            prepare(MODULE, folder, settings, SIGNATURE, data("train"), data("validation"))
        (folder / WEIGHTS).unlink(missing_ok=True)
        with contextlib.redirect_stdout(io.StringIO()):
            code = TorchLauncher(threads=1).torchrun(MODULE, folder, settings, {})
        if code:
            sys.exit(failure(folder))
        return read_history(folder)

    def rate(self, ranks: int, batch: int) -> float:
        history = self.train(ranks, batch)
        return max(history.rows / epoch.seconds for epoch in history.epochs)

    def bare(self, script: str, ranks: int, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", "--rdzv-backend", "c10d",
             "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1",
             "--nproc-per-node", str(ranks), str(self.folder / script), *arguments],
            env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            sys.exit(done.stderr)
        return done.stdout


def interleaved(rounds: int, *sides: Callable[[], float]) -> list[float]:
    """The median of each side, measured in turns."""
    found: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds):
        for side, values in zip(sides, found, strict=True):
            values.append(side())
    return [statistics.median(values) for values in found]


def against_bare(bench: Bench, rounds: int) -> float:
    work = str(bench.folder / "work")
    own, bare = interleaved(
        rounds,
        lambda: bench.rate(2, 8192),
        lambda: float(bench.bare("bare.py", 2, work, str(EPOCHS), "8192")),
    )
    print(f"train.py {own:12,.0f} rows/s, bare loop {bare:12,.0f} rows/s (2 ranks)")
    return own / bare


def two_ranks(bench: Bench, rounds: int) -> float:
    two, one = interleaved(rounds, lambda: bench.rate(2, 16384), lambda: bench.rate(1, 16384))
    print(f"2 ranks  {two:12,.0f} rows/s, 1 rank    {one:12,.0f} rows/s (batch 16384)")
    return two / one


def feeding(bench: Bench, rounds: int) -> float:
    torch.set_num_threads(1)
    arrays = Arrays.mapped(bench.folder / "work" / "train")
    feed = Feed(arrays, torch.device("cpu"))
    tensors = [
        torch.from_numpy(np.array(column))
        for column in (arrays.numbers, arrays.categories, arrays.target)
    ]

    def fed() -> float:
        began = time.perf_counter()
        for rows in feed.shuffled(8192, 1):
            _ = feed.take(rows)
        return len(feed) / (time.perf_counter() - began)

    def raw() -> float:
        began = time.perf_counter()
        order = torch.randperm(len(feed), generator=torch.Generator().manual_seed(1))
        for start in range(0, len(feed) - 8191, 8192):
            rows = order[start : start + 8192]
            _ = [column[rows] for column in tensors]
        return len(feed) / (time.perf_counter() - began)

    own, bare = interleaved(20 * rounds, fed, raw)
    print(f"feeding  {own:12,.0f} rows/s, indexing  {bare:12,.0f} rows/s")
    return own / bare


def first_step(bench: Bench, rounds: int) -> float:
    def make_train() -> float:
        began = bench.materialize("weights")
        return read_history(bench.workspace.training).first_step - began

    def alone() -> float:
        began = time.time()
        bench.bare("import.py", 2)
        return time.time() - began

    own, bare = interleaved(rounds, make_train, alone)
    print(f"make train to its first step {own:.2f} s, torchrun and import torch {bare:.2f} s")
    return own / bare


def memory(bench: Bench, rounds: int) -> float:
    """Peak of rank 0, all pages that it mapped included, for ten times the rows."""
    small = bench.train(2, 8192, epochs=1).peak_memory
    source, large = bench.folder / "work", bench.folder / "large"
    for part in ("train", "validation"):
        (large / part).mkdir(parents=True)
        for file in (source / part).glob("*.npy"):
            column = np.load(file, mmap_mode="r")
            shape = (10 * len(column), *column.shape[1:])
            new = np.lib.format.open_memmap(large / part / file.name, "w+", column.dtype, shape)
            for copy in range(10):
                new[copy * len(column) : (copy + 1) * len(column)] = column
    (large / "job.json").write_text((source / "job.json").read_text())
    peak = bench.train(2, 8192, epochs=1, work="large").peak_memory
    print(f"memory   {peak / 2**20:12,.0f} MiB for 10 × the rows, {small / 2**20:,.0f} MiB for 1 ×")
    return peak / small


MEASURES: dict[str, tuple[Callable[[Bench, int], float], float, bool]] = {
    "train_over_bare_loop": (against_bare, 0.97, True),
    "two_ranks_over_one": (two_ranks, 1.7, True),
    "feeding_over_indexing": (feeding, 0.95, True),
    "first_step_over_torchrun": (first_step, 1.5, False),
    "memory_of_ten_times_the_rows": (memory, 1.2, False),
}
"""name → (measure, bound, whether more is better)"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=MEASURES, action="append")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    figures: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        bench.train(2, 8192, epochs=1)  # compiles what is compiled once
        for name, (measure, bound, more) in MEASURES.items():
            if given.only and name not in given.only:
                continue
            value = measure(bench, given.rounds)
            ok = value >= bound if more else value <= bound
            figures[name] = {"value": round(value, 3), "bound": bound, "ok": ok}
    for name, figure in figures.items():
        print(f"{name:30} {figure['value']:6.3f}  bound {figure['bound']}  {figure['ok']}")
    ok = all(figure["ok"] for figure in figures.values())
    if given.json:
        machine = f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
        print(json.dumps({"ok": ok, "machine": machine, "figures": figures}))
    sys.exit(not ok)


if __name__ == "__main__":
    main()
