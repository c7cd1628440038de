"""The rendered service against what people would write by hand, with one model and one load.

    python -m benchmarks.serving [--seconds N] [--rounds N] [--overload N] [--json]

Peers: BentoML as its tutorial writes it, bare FastAPI under uvicorn, LitServe, each with the
package's `model.pt2` by torch, and FastAPI with `model.onnx`, too. Load: wrk
(`apt-get install wrk`), 16 connections, one worker, then two. Ours has its prediction log,
metrics and checks on; the peers have no log and their frameworks' own types.

Bounds are against the faster FastAPI (`model.onnx`), but for memory, which is against the
one with the exported torch program. Where docker or buildah can build them, our image is
served, too (`image`), and compared in size with plain BentoML's. `cpu` is the servers' CPU
time a request, which other work on the machine does not change much; wall-clock figures it does.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.serving.image import Images, images
from benchmarks.serving.limit import in_process
from benchmarks.serving.load import Measured, overload, wrk
from benchmarks.serving.servers import PEERS, Running, build_bento, make_package

BODIES = {"one row": 1, "100 rows": 100}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=3, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--overload", type=int, default=30, help="seconds of it; 0: none")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        package = make_package(Path(folder) / "packages" / "1")
        bentos = {workers: build_bento(Path(folder), package, workers) for workers in (1, 2)}
        bodies = _bodies(package, Path(folder))
        results: dict[tuple[str, int, str], list[Measured]] = {}
        ready: dict[str, list[float]] = {}
        memory: dict[str, list[int]] = {}
        with images(Path(folder), package, bentos[1]) as built:
            servers = [(name, workers) for name in PEERS for workers in (1, 2)]
            servers += [("image", 1)] if built else []
            for name, workers in servers * given.rounds:
                with Running(name, workers, package, bentos[workers], built) as server:
                    for what in _scenarios(name, workers):
                        wrk(server, bodies[what], 1)
                        measured = wrk(server, bodies[what], given.seconds)
                        results.setdefault((name, workers, what), []).append(measured)
                        print(f"{name}, {workers}, {what}: {measured}", file=sys.stderr)
                    if workers == 1:
                        ready.setdefault(name, []).append(server.ready_s)
                        memory.setdefault(name, []).append(server.memory())
        under = None
        if given.overload:
            print("overload", file=sys.stderr)
            with Running("modelyard", 1, package, bentos[1]) as server:
                under = overload(server, bodies["one row"], given.overload)
        limit = in_process(package, bodies)
    _table(results, ready, memory, limit)
    figures = _figures(results, ready, memory, limit, under, built)
    for name, figure in figures.items():
        print(f"{name:34} {figure['value']:8.3f}  bound {figure['bound']}  {figure['ok']}")
    ok = all(figure["ok"] for figure in figures.values())
    if given.json:
        load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
        machine = f"{platform.machine()}, {os.cpu_count()} cores, load average {load}"
        print(json.dumps({"ok": ok, "machine": machine, "figures": figures}))
    sys.exit(not ok)


def _scenarios(name: str, workers: int) -> list[str]:
    if workers == 2:
        return ["one row"]
    return [*BODIES, "Arrow, 1000 rows"] if name == "modelyard" else list(BODIES)


def _bodies(package: Path, folder: Path) -> dict[str, tuple[str, Path]]:
    """What → content type and the file with the body."""
    import pyarrow as pa

    from modelyard.documents import Signature
    from modelyard.serving.rows import ARROW, JSON
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
    bodies["Arrow, 1000 rows"] = ARROW, folder / "1000.arrow"
    return bodies


def _median(measured: list[Measured], field: str) -> float:
    return statistics.median(getattr(each, field) for each in measured)


def _table(results: Any, ready: Any, memory: Any, limit: dict[str, float]) -> None:
    print(f"{'':14}{'workers':>8} {'':18}{'requests/s':>11}{'p50 ms':>8}{'p99 ms':>8}{'cpu ms':>8}")
    for (name, workers, what), measured in sorted(results.items(), key=lambda r: r[0][1:]):
        columns = [_median(measured, f) for f in ("rate", "p50_ms", "p99_ms", "cpu_ms")]
        print(f"{name:14}{workers:8} {what:18}{columns[0]:11.0f}" + "".join(
            f"{value:8.3f}" for value in columns[1:]))  # fmt: skip
    for what, rate in limit.items():
        print(f"{'in process':14}{1:8} {what:18}{rate:11.0f}")
    for name in ready:
        size = statistics.median(memory[name]) / 2**20
        print(f"{name:14} ready in {statistics.median(ready[name]):.2f} s, {size:.0f} MiB")


def _figures(
    results: Any, ready: Any, memory: Any, limit: dict[str, float], under: Any, built: Images | None
) -> dict[str, dict[str, Any]]:
    """Each of the issue's bounds: value, bound, and whether it holds."""

    def ratio(field: str, what: str, workers: int = 1, name: str = "modelyard") -> float:
        ours, theirs = results[name, workers, what], results["fastapi-onnx", workers, what]
        return _median(ours, field) / _median(theirs, field)

    arrow = _median(results["modelyard", 1, "Arrow, 1000 rows"], "rate")
    figures = {
        "one_row_rate_over_fastapi": (ratio("rate", "one row"), 1.5, 1),
        "one_row_p99_over_fastapi": (ratio("p99_ms", "one row"), 1.0, -1),
        "one_row_cpu_over_fastapi": (ratio("cpu_ms", "one row"), 0.667, -1),
        "two_workers_rate_over_fastapi": (ratio("rate", "one row", 2), 1.5, 1),
        "two_workers_p99_over_fastapi": (ratio("p99_ms", "one row", 2), 1.0, -1),
        "100_rows_rate_over_fastapi": (ratio("rate", "100 rows"), 1.5, 1),
        "100_rows_cpu_over_fastapi": (ratio("cpu_ms", "100 rows"), 0.667, -1),
        "arrow_rate_over_in_process": (arrow / limit["Arrow, 1000 rows"], 0.5, 1),
        "memory_over_fastapi_torch": (
            statistics.median(memory["modelyard"]) / statistics.median(memory["fastapi"]), 1.0, -1,
        ),
        "ready_s": (statistics.median(ready["modelyard"]), 2.5, -1),
    }  # fmt: skip
    if built:
        figures |= {
            "image_size_over_plain": (built.size / built.plain_size, 0.5, -1),
            "image_rate_over_fastapi": (ratio("rate", "one row", name="image"), 1.5, 1),
            "image_ready_s": (statistics.median(ready["image"]), 2.5, -1),
        }
        print(f"images: {built.size} bytes; plain BentoML's, with torch: {built.plain_size}")
    if under:
        figures |= {
            "overload_accepted_p99_ratio": (under["accepted"] / under["before"], 5.0, -1),
            "overload_refused_p99_ratio": (under["refused"] / under["before"], 5.0, -1),
            "overload_after_p99_ratio": (under["after"] / under["before"], 2.0, -1),
            "overload_other_answers": (under["other"], 0, -1),
        }
    return {
        name: {"value": round(value, 3), "bound": bound, "ok": bool((value - bound) * sign >= 0)}
        for name, (value, bound, sign) in figures.items()
    }


if __name__ == "__main__":
    main()
