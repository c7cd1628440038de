"""Ten thousand malformed requests, bodies in parts, slow clients, and what is no HTTP."""

import io
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import BinaryIO
from urllib.parse import urlsplit

import psutil
import pyarrow as pa
import pytest
from benchmarks.serving.malformed import read_answer, send

from modelyard.documents.signature import Task
from modelyard.serving.codec.types import ARROW, JSON
from modelyard.serving.testing import Server

pytestmark = pytest.mark.xdist_group("serving")

Servers = Callable[[Task], Server]
ROW = {"distance": 1400.0, "hour": 17, "wind": 12.5, "carrier": "AA", "dest": "LAX"}
BODY = json.dumps({"rows": [ROW]}).encode()


def good() -> list[tuple[str, bytes]]:
    table = pa.Table.from_pylist([ROW] * 3)
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    columns = {"columns": {name: [value] for name, value in ROW.items()}}
    return [
        (JSON, json.dumps({"rows": [ROW] * 3}).encode()),
        (JSON, json.dumps(columns).encode()),
        (ARROW, sink.getvalue()),
    ]


def test_ten_thousand_malformed_requests_are_4xx_and_leave_no_memory(server: Servers) -> None:
    running, requests = server("binary"), good()
    (worker,) = psutil.Process(running.process.pid).children(recursive=True)
    codes = send(running.url, requests, range(3000))
    before = worker.memory_info().rss
    codes += send(running.url, requests, range(3000, 10_000))
    assert codes.total() == 10_000 and all(code < 500 for code in codes), codes
    assert sum(codes[c] for c in (400, 415, 422)) > 8000, codes
    assert worker.memory_info().rss - before < 8 * 2**20
    assert running.client.post("/predict", json={"rows": [ROW]}).status_code == 200
    # It has read Arrow and JSON by now, and written its log.
    assert not [m.path for m in worker.memory_maps() if "/pandas/" in m.path]


@contextmanager
def connected(server: Server) -> Iterator[tuple[socket.socket, BinaryIO]]:
    address = urlsplit(server.url)
    with (
        socket.create_connection((address.hostname, address.port), timeout=60) as connection,
        connection.makefile("rb") as answers,
    ):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield connection, answers


def head(*headers: str, method: str = "POST", path: str = "/predict") -> bytes:
    lines = (f"{method} {path} HTTP/1.1", "host: x", "content-type: application/json", *headers)
    return "\r\n".join((*lines, "\r\n")).encode()


LENGTH = f"content-length: {len(BODY)}"


def test_a_body_may_come_in_parts(server: Servers) -> None:
    with connected(server("binary")) as (connection, answers):
        connection.sendall(head(LENGTH) + BODY[:10])
        connection.sendall(BODY[10:])
        assert read_answer(answers)[0] == 200
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in (BODY[:7], BODY[7:]))
        connection.sendall(head("transfer-encoding: chunked") + chunks + b"0\r\n\r\n")
        assert read_answer(answers)[0] == 200
        connection.sendall(head(LENGTH, "expect: 100-continue"))
        assert answers.readline() == b"HTTP/1.1 100 Continue\r\n" and answers.readline() == b"\r\n"
        connection.sendall(BODY)
        assert read_answer(answers)[0] == 200


def test_pipelined_requests_are_answered_in_their_order(server: Servers) -> None:
    with connected(server("binary")) as (connection, answers):
        bad = head("content-length: 2") + b"{}"
        connection.sendall((head(LENGTH) + BODY + bad) * 3)
        assert [read_answer(answers)[0] for _ in range(6)] == [200, 400] * 3


def test_slow_clients_hold_no_place_and_may_go_away(server: Servers) -> None:
    """More of them than may wait, each in the middle of its body."""
    running = server("binary")
    with ExitStack() as stack:
        for _ in range(200):
            connection, _ = stack.enter_context(connected(running))
            connection.sendall(head(LENGTH) + BODY[:10])
        for _ in range(20):
            assert running.client.post("/predict", json={"rows": [ROW]}).status_code == 200
    assert running.client.post("/predict", json={"rows": [ROW]}).status_code == 200
    assert "Traceback" not in running.log


def test_other_methods_are_405_and_what_is_no_http_is_400(server: Servers) -> None:
    for method in ("GET", "HEAD", "PUT", "OPTIONS", "DELETE"):
        with connected(server("binary")) as (connection, answers):
            connection.sendall(head("connection: close", method=method))
            assert answers.readline() == b"HTTP/1.1 405 Method Not Allowed\r\n"
            answer = answers.read().lower()
            assert b"allow: post" in answer and (method != "HEAD" or answer.endswith(b"\r\n\r\n"))
    for nonsense in (b"\x16\x03\x01\x02\x00\r\n\r\n", head("content-length: -1"), head("a\x00: b")):
        with connected(server("binary")) as (connection, answers):
            connection.sendall(nonsense)
            assert read_answer(answers)[0] == 400
