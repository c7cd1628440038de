"""The OpenAPI document holds against requests made from it, and nothing malformed breaks in."""

import http.client
import io
import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pyarrow as pa
import pytest

from modelyard.documents.signature import Task
from modelyard.serving.rows import ARROW
from modelyard.serving.testing import Server

pytestmark = pytest.mark.xdist_group("serving")

Servers = Callable[[Task], Server]
ROW = {"distance": 1400.0, "hour": 17, "wind": 12.5, "carrier": "AA", "dest": "LAX"}


ODD = [b"null", b"NaN", b"-Infinity", b"1e999", b"[" * 500, b'{"a":' * 300, b'"\\ud800"']


# That columns must be of one length can't be said in a schema; 413 is a refusal, too.
SCHEMATHESIS = """
[checks]
positive_data_acceptance.enabled = false
negative_data_rejection.expected-statuses = [400, 405, 413, 415, 422]
"""


def test_schemathesis_finds_no_5xx_and_no_undocumented_answer(
    server: Servers, tmp_path: Path
) -> None:
    (tmp_path / "schemathesis.toml").write_text(SCHEMATHESIS)
    command = [
        Path(sys.executable).with_name("schemathesis"), "--config-file", "schemathesis.toml",
        "run", f"{server('binary').url}/docs.json", "--max-examples", "30", "--max-time", "15",
        "--generation-database", "none", "--seed", "1", "--no-color",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]


def bodies(seed: int) -> tuple[str, bytes]:
    """A body that is malformed in some way: bytes flipped, cut, doubled, or values swapped."""
    source = random.Random(seed)
    table = pa.Table.from_pylist([ROW] * 3)
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    good = {
        "application/json": json.dumps({"rows": [ROW] * 3}).encode(),
        "application/json; columns": json.dumps(
            {"columns": {k: [v] for k, v in ROW.items()}}
        ).encode(),
        ARROW: sink.getvalue(),
    }
    kind, body = source.choice(list(good.items()))
    content = bytearray(body)
    for _ in range(source.randint(1, 8)):
        place = source.randrange(len(content) or 1)
        match source.randrange(5):
            case 0:
                content[place : place + 1] = bytes([source.randrange(256)])
            case 1:
                del content[place : place + source.randint(1, 40)]
            case 2:
                content[place:place] = content[place : place + source.randint(1, 40)]
            case 3:
                content[place:place] = source.choice(
                    [
                        b"null",
                        b"NaN",
                        b"-Infinity",
                        b"1e999",
                        b"[" * 500,
                        b'{"a":' * 300,
                        b'"\\ud800"',
                    ]
                )
            case _:
                content[place : place + 4] = source.randbytes(4)
    if source.random() < 0.05:
        kind = source.choice(["text/plain", "", "application/x-www-form-urlencoded", "x" * 300])
    return kind, bytes(content)


def test_malformed_requests_are_4xx_and_leave_no_memory(server: Servers) -> None:
    running = server("binary")
    (worker,) = psutil.Process(running.process.pid).children(recursive=True)
    address = urlsplit(running.url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=60)
    codes: Counter[int] = Counter()
    count, sizes = 3000, []
    for seed in range(count):
        kind, body = bodies(seed)
        connection.request("POST", "/predict", body, {"content-type": kind})
        answer = connection.getresponse()
        answer.read()
        codes[answer.status] += 1
        assert answer.status < 500, (seed, answer.status)
        if seed % (count // 3) == count // 3 - 1:
            sizes.append(worker.memory_info().rss)
    # Some bytes don't matter to the meaning.
    assert codes.total() == count and sum(codes[c] for c in (400, 415, 422)) > 0.8 * count
    assert sizes[2] - sizes[0] < 20 * 2**20, sizes
    good = running.client.post("/predict", json={"rows": [ROW]})
    assert good.status_code == 200
