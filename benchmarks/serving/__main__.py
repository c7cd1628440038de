"""The rendered service against what people would write by hand, with one model and one load.

    python -m benchmarks.serving [--only load overload faults] [--seconds N] [--rounds N] [--json]

`load`: peers are BentoML as its tutorial writes it, bare FastAPI under uvicorn, LitServe, each
with the package's `model.pt2` by torch, and FastAPI with `model.onnx`, too. wrk
(`apt-get install wrk`), 16 connections, one worker, then two. Ours has its prediction log,
metrics and checks on; the peers have no log and their frameworks' own types. Bounds are against
the faster FastAPI (`model.onnx`), but for memory, which is against the one with the exported
torch program. Where docker or buildah can build them, our image is served, too (`image`), and
compared in size with plain BentoML's. `cpu` is the servers' CPU time a request, which other
work on the machine does not change much; wall-clock figures it does.

`overload`: 100 rows a request at three times the measured capacity, at a constant rate (h2load,
`apt-get install nghttp2-client`), compared with half of the capacity; then, with no bound, 400
connections that ask for one row again at once.

`faults`: a worker killed under load, and 10,000 malformed requests.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.serving.faults import back_after_kill, malformed
from benchmarks.serving.image import Images, images
from benchmarks.serving.limit import in_process
from benchmarks.serving.load import Measured, wrk
from benchmarks.serving.overload import overload, storm
from benchmarks.serving.servers import PEERS, Running, build_bento, make_package

BODIES = {"one row": 1, "100 rows": 100}
ARROW_ROWS = "Arrow, 1000 rows"
PARTS = ("load", "overload", "faults")
Bound = tuple[float, float, int]
"""value, bound, and 1 where the value must be above it, -1 where below"""
Bodies = dict[str, tuple[str, Path]]


@dataclass
class Found:
    """Measurements of `load`, each taken several times."""

    results: dict[tuple[str, int, str], list[Measured]] = field(default_factory=dict)
    """by server, workers, body"""
    ready_s: dict[str, list[float]] = field(default_factory=dict)
    memory: dict[str, list[int]] = field(default_factory=dict)

    def ratio(self, what: str, body: str, workers: int = 1, name: str = "modelyard") -> float:
        """Of a server to FastAPI with `model.onnx`."""
        ours, theirs = (self.results[n, workers, body] for n in (name, "fastapi-onnx"))
        return _median(ours, what) / _median(theirs, what)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--seconds", type=int, default=3, help="of each measurement of load")
    parser.add_argument("--rounds", type=int, default=3, help="of load")
    parser.add_argument("--overload", type=int, default=30, help="seconds of it")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    bounds: dict[str, Bound] = {}
    with tempfile.TemporaryDirectory() as folder:
        package = make_package(Path(folder) / "packages" / "1")
        bentos = {workers: build_bento(Path(folder), package, workers) for workers in (1, 2)}
        bodies = _bodies(package, Path(folder))
        if "load" in given.only:
            with images(Path(folder), package, bentos[1]) as built:
                found = _load(package, bentos, built, bodies, given.seconds, given.rounds)
            bounds |= _report(found, built, in_process(package, bodies))
        if "overload" in given.only:
            with Running("modelyard", 1, package, bentos[1]) as server:
                bounds |= _overload(server, bodies, given.overload)
        if "faults" in given.only:
            with Running("modelyard", 1, package, bentos[1]) as server:
                bounds |= _faults(server, bodies)
    figures = {
        name: {"value": round(value, 3), "bound": bound, "ok": bool((value - bound) * sign >= 0)}
        for name, (value, bound, sign) in bounds.items()
    }
    for name, figure in figures.items():
        print(f"{name:34} {figure['value']:8.3f}  bound {figure['bound']}  {figure['ok']}")
    ok = all(figure["ok"] for figure in figures.values())
    if given.json:
        busy = ", ".join(f"{value:.1f}" for value in os.getloadavg())
        machine = f"{platform.machine()}, {os.cpu_count()} cores, load average {busy}"
        print(json.dumps({"ok": ok, "machine": machine, "figures": figures}))
    sys.exit(not ok)


def _load(
    package: Path,
    bentos: dict[int, Path],
    built: Images | None,
    bodies: Bodies,
    seconds: int,
    rounds: int,
) -> Found:
    found = Found()
    servers = [(name, workers) for name in PEERS for workers in (1, 2)]
    servers += [("image", 1)] if built else []
    for name, workers in servers * rounds:
        with Running(name, workers, package, bentos[workers], built) as server:
            for what in _scenarios(name, workers):
                wrk(server, bodies[what], 1)
                measured = wrk(server, bodies[what], seconds)
                found.results.setdefault((name, workers, what), []).append(measured)
                print(f"{name}, {workers}, {what}: {measured}", file=sys.stderr)
            if workers == 1:
                found.ready_s.setdefault(name, []).append(server.ready_s)
                found.memory.setdefault(name, []).append(server.memory())
    return found


def _overload(server: Running, bodies: Bodies, seconds: int) -> dict[str, Bound]:
    found = overload(server, bodies["100 rows"], seconds)
    print("overload, 100 rows a request; p99 in ms, shares of the capacity:",
          ", ".join(f"{name} {value:.2f}" for name, value in found.items()))  # fmt: skip
    worst = storm(server, bodies["one row"], 10)
    print("400 connections that ask for one row again at once; p99 in ms:",
          ", ".join(f"{name} {value:.1f}" for name, value in worst.items()))  # fmt: skip
    return {
        "overload_offered_over_capacity": (found["offered"], 2.7, 1),
        "overload_accepted_p99_ratio": (found["accepted"] / found["before"], 5.0, -1),
        "overload_refused_p99_ratio": (found["refused"] / found["before"], 5.0, -1),
        "overload_after_p99_ratio": (found["after"] / found["before"], 2.0, -1),
        "overload_other_answers": (found["other"], 0, -1),
    }


def _faults(server: Running, bodies: Bodies) -> dict[str, Bound]:
    back_s = back_after_kill(server, bodies["one row"])
    failures, grown = malformed(server, [bodies["one row"], bodies[ARROW_ROWS]])
    return {
        "back_after_kill_s": (back_s, 2.0, -1),
        "malformed_5xx": (failures, 0, -1),
        "malformed_memory_mib": (grown, 8.0, -1),
    }


def _scenarios(name: str, workers: int) -> list[str]:
    if workers == 2:
        return ["one row"]
    return [*BODIES, ARROW_ROWS] if name == "modelyard" else list(BODIES)


def _bodies(package: Path, folder: Path) -> Bodies:
    """What → content type and the file with the body."""
    import pyarrow as pa

    from modelyard.documents import Signature
    from modelyard.serving.codec.types import ARROW, JSON
    from modelyard.serving.testing import draw_rows

    signature = Signature.model_validate_json((package / "signature.json").read_bytes())
    bodies = {}
    for what, count in BODIES.items():
        path = folder / f"{count}.json"
        path.write_text(json.dumps({"rows": draw_rows(signature, count)}))
        bodies[what] = JSON, path
    table = pa.Table.from_pylist(draw_rows(signature, 1000))
    with pa.ipc.new_stream(folder / "1000.arrow", table.schema) as writer:
        writer.write_table(table)
    bodies[ARROW_ROWS] = ARROW, folder / "1000.arrow"
    return bodies


def _median(measured: list[Measured], field: str) -> float:
    return statistics.median(getattr(each, field) for each in measured)


def _report(found: Found, built: Images | None, limit: dict[str, float]) -> dict[str, Bound]:
    """Print the table of `load`; each of the issue's bounds."""
    print(f"{'':14}{'workers':>8} {'':18}{'requests/s':>11}{'p50 ms':>8}{'p99 ms':>8}{'cpu ms':>8}")
    for (name, workers, what), measured in sorted(found.results.items(), key=lambda r: r[0][1:]):
        columns = [_median(measured, f) for f in ("rate", "p50_ms", "p99_ms", "cpu_ms")]
        print(f"{name:14}{workers:8} {what:18}{columns[0]:11.0f}" + "".join(
            f"{value:8.3f}" for value in columns[1:]))  # fmt: skip
    for what, rate in limit.items():
        print(f"{'in process':14}{1:8} {what:18}{rate:11.0f}")
    ready_s = {name: statistics.median(each) for name, each in found.ready_s.items()}
    memory = {name: statistics.median(each) for name, each in found.memory.items()}
    for name, size in memory.items():
        print(f"{name:14} ready in {ready_s[name]:.2f} s, {size / 2**20:.0f} MiB")
    arrow = _median(found.results["modelyard", 1, ARROW_ROWS], "rate")
    bounds: dict[str, Bound] = {
        "one_row_rate_over_fastapi": (found.ratio("rate", "one row"), 1.5, 1),
        "one_row_p99_over_fastapi": (found.ratio("p99_ms", "one row"), 1.0, -1),
        "one_row_cpu_over_fastapi": (found.ratio("cpu_ms", "one row"), 0.667, -1),
        "two_workers_rate_over_fastapi": (found.ratio("rate", "one row", 2), 1.5, 1),
        "two_workers_p99_over_fastapi": (found.ratio("p99_ms", "one row", 2), 1.0, -1),
        "100_rows_rate_over_fastapi": (found.ratio("rate", "100 rows"), 1.5, 1),
        "100_rows_cpu_over_fastapi": (found.ratio("cpu_ms", "100 rows"), 0.667, -1),
        "arrow_rate_over_in_process": (arrow / limit[ARROW_ROWS], 0.5, 1),
        "memory_over_fastapi_torch": (memory["modelyard"] / memory["fastapi"], 1.0, -1),
        "ready_s": (ready_s["modelyard"], 2.5, -1),
    }
    if not built:
        return bounds
    print(f"images: {built.size} bytes; plain BentoML's, with torch: {built.plain_size}")
    return bounds | {
        "image_size_over_plain": (built.size / built.plain_size, 0.5, -1),
        "image_rate_over_fastapi": (found.ratio("rate", "one row", name="image"), 1.5, 1),
        "image_ready_s": (ready_s["image"], 2.5, -1),
    }


if __name__ == "__main__":
    main()
