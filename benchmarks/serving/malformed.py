"""Bodies that are malformed in some way, the same ones for the same seed."""

import random
import socket
from collections import Counter
from typing import BinaryIO
from urllib.parse import urlsplit

PIPELINED = 20
"""requests that are sent before the first of their answers is read"""
KINDS = ("text/plain", "", "application/x-www-form-urlencoded", "x" * 300, "application/json;;=")
ODD = (b"null", b"NaN", b"-Infinity", b"1e999", b"[" * 500, b'{"a":' * 300, b'"\\ud800"')


def malformed(good: list[tuple[str, bytes]], seed: int) -> tuple[str, bytes]:
    """Content type and body: one of `good`, with bytes flipped, cut, doubled, swapped.

    Some changes don't matter to the meaning, such as another digit.
    """
    source = random.Random(seed)
    kind, body = source.choice(good)
    content = bytearray(body)
    for _ in range(source.randint(1, 8)):
        place = source.randrange(len(content) or 1)
        length = source.randint(1, 40)
        match source.randrange(5):
            case 0:
                content[place : place + 1] = source.randbytes(1)
            case 1:
                del content[place : place + length]
            case 2:
                content[place:place] = content[place : place + length]
            case 3:
                content[place:place] = source.choice(ODD)
            case _:
                content[place : place + 4] = source.randbytes(4)
    if source.random() < 0.05:
        kind = source.choice(KINDS)
    return kind, bytes(content)


def send(url: str, good: list[tuple[str, bytes]], seeds: range) -> Counter[int]:
    """Send a malformed request for each seed, on one connection; statuses and their counts."""
    address = urlsplit(url)
    codes: Counter[int] = Counter()
    with (
        socket.create_connection((address.hostname, address.port), timeout=60) as connection,
        connection.makefile("rb") as answers,
    ):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for some in (seeds[n : n + PIPELINED] for n in range(0, len(seeds), PIPELINED)):
            requests = (malformed(good, seed) for seed in some)
            connection.sendall(b"".join(_request(kind, body) for kind, body in requests))
            codes.update(read_answer(answers)[0] for _ in some)
    return codes


def _request(kind: str, body: bytes) -> bytes:
    lines = ("POST /predict HTTP/1.1", "host: x", f"content-type: {kind}")
    return "\r\n".join((*lines, f"content-length: {len(body)}\r\n\r\n")).encode() + body


def read_answer(answers: BinaryIO) -> tuple[int, bytes]:
    """Status and body of the next answer."""
    status, length = int(answers.readline().split()[1]), 0
    while (line := answers.readline()) != b"\r\n":
        name, _, value = line.partition(b":")
        if name == b"content-length":
            length = int(value)
    return status, answers.read(length)
