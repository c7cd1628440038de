"""`POST /predict` and `GET /model` as a bare ASGI app.

What BentoML's middleware would have done for them is done here: metrics, readiness, a bound on
what waits (see `dispatch`).
"""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import bentoml
from pydantic_core import to_json

from modelyard.documents.http import PREDICT_ROUTE, REQUEST_ID_HEADER
from modelyard.serving.api.limits import LATE, MOST_BUFFERED, Admission
from modelyard.serving.codec.errors import Refusal, RowError
from modelyard.serving.codec.types import JSON

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

RETRY_AFTER_S = 1
REQUEST_ID = REQUEST_ID_HEADER.encode()

logger = logging.getLogger("bentoml.modelyard")


class RequestMetrics(Protocol):
    def answered(self, code: int, seconds: float) -> None: ...


class Answers(Protocol):
    """Who turns a body into predictions, and counts the answers."""

    @property
    def metrics(self) -> RequestMetrics: ...
    async def answer(self, kind: str, body: bytes, request_id: str) -> tuple[str, bytes]: ...


class Worker(Protocol):
    """What these routes ask of the service of this process."""

    problem: str
    """why it is not ready; empty if it is"""
    draining: bool
    admission: Admission
    version_header: tuple[bytes, bytes]

    @property
    def max_bytes(self) -> int: ...
    @property
    def predictor(self) -> Answers | None: ...
    def describe(self) -> dict[str, Any]: ...
    def flush_metrics(self) -> None: ...


class Routes:
    """`POST /predict` and `GET /model`."""

    def __init__(self, prefix: str) -> None:
        self._predict = prefix + PREDICT_ROUTE

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = time.perf_counter()
        service = worker()
        kind, coding, given = _asked(scope["headers"])
        request_id = _request_id(given)
        predict, status = scope["path"] == self._predict, 200
        headers = [(REQUEST_ID, request_id.encode()), service.version_header]
        if service.draining:
            headers.append((b"connection", b"close"))
        try:
            allowed = ("POST",) if predict else ("GET", "HEAD")
            if scope["method"] not in allowed:
                headers.append((b"allow", ", ".join(allowed).encode()))
                raise Refusal(405, f"{scope['method']}: {scope['path']} takes {allowed[0]}")
            if predict:
                _check_coding(coding)
                kind, body = await _predictions(service, kind, request_id, receive)
            elif service.problem:
                raise Refusal(503, f"not ready: {service.problem}")
            else:
                kind, body = JSON, to_json(service.describe())
        except Refusal as refusal:
            status, kind, body = refusal.status, JSON, _error(str(refusal), refusal.errors)
            if isinstance(refusal, Overload):
                headers.append((b"retry-after", b"%d" % RETRY_AFTER_S))
        except Exception:
            logger.exception("request %s failed", request_id)
            text = f"the service failed; its log has the traceback under request {request_id}"
            status, kind, body = 500, JSON, _error(text)
        await _send(send, status, kind, body, headers)
        if predict and service.predictor:
            service.predictor.metrics.answered(status, time.perf_counter() - start)


class Overload(Refusal):
    """More waits than may; a client may try again."""

    def __init__(self, waiting: int) -> None:
        super().__init__(503, f"overloaded: {waiting} requests wait; try again")


def refusal(headers: list[tuple[bytes, bytes]]) -> bytes | None:
    """All of the answer to a request for predictions with these headers, if it finds no place.

    It is what `Routes` would send, for a fifth of the time.
    """
    service = worker()
    if service.predictor is None or service.problem or service.draining:
        return None
    size, given = 0, b""
    for name, value in headers:
        if name == b"content-length":
            size = int(value)
        elif name == REQUEST_ID:
            given = value
    if not service.admission.full(size):
        service.admission.expect(size)
        return None
    service.predictor.metrics.answered(503, 0.0)
    body = _error(str(Overload(service.admission.waiting)))
    lines = (
        b"HTTP/1.1 503 Service Unavailable",
        REQUEST_ID + b": " + _request_id(given).encode(),
        b"%s: %s" % service.version_header,
        b"retry-after: %d" % RETRY_AFTER_S,
        b"content-type: " + JSON.encode(),
        b"content-length: %d" % len(body),
    )
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


async def _predictions(
    service: Worker, kind: str, request_id: str, receive: Receive
) -> tuple[str, bytes]:
    """Content type and body of the answer.

    Raises:
        Refusal: the request can't be answered with predictions.
    """
    if service.predictor is None or service.problem:
        raise Refusal(503, f"not ready: {service.problem}")
    admission = service.admission
    # Before its body is read, too: what is refused shall cost little.
    _admit(admission, 0)
    body = await _body(service, receive)
    _admit(admission, len(body))
    admission.enter(len(body))
    try:
        return await service.predictor.answer(kind, body, request_id)
    finally:
        admission.leave(len(body))


def _admit(admission: Admission, size: int) -> None:
    if admission.full(size):
        raise Overload(admission.waiting)


def _asked(headers: list[tuple[bytes, bytes]]) -> tuple[str, str, bytes]:
    """Content type, content coding and request id of a request."""
    kind, coding, given = JSON, "", b""
    for name, value in headers:
        if name == b"content-type":
            kind = value.decode("latin-1").partition(";")[0].strip().lower()
        elif name == REQUEST_ID:
            given = value
        elif name == b"content-encoding":
            coding = value.decode("latin-1").strip().lower()
    return kind, coding, given


def _check_coding(coding: str) -> None:
    if coding not in ("", "identity"):
        # A few bytes could stand for gigabytes.
        raise Refusal(415, f"content-encoding: send the body plain, not as {coding[:100]}")


async def _body(service: Worker, receive: Receive) -> bytes:
    reading, task = service.admission.reading, asyncio.current_task()
    reading[task] = time.monotonic()
    try:
        message = await receive()
        body = message.get("body", b"")
        if message.get("more_body") or len(body) > service.max_bytes:
            body = await _rest(body, message, receive, service)
        return body
    except asyncio.CancelledError as error:
        if error.args != (LATE,) or task is None:
            raise
        task.uncancel()
        raise Refusal(408, LATE) from None
    finally:
        del reading[task]


async def _rest(body: bytes, message: dict[str, Any], receive: Receive, service: Worker) -> bytes:
    """The whole of a body that comes in parts. Meanwhile it holds no place, but memory."""
    content, admission = bytearray(body), service.admission
    admission.buffered += len(content)
    try:
        while message.get("more_body") and len(content) <= service.max_bytes:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Refusal(400, "the client went away before the end of the body")
            part = message.get("body", b"")
            admission.buffered += len(part)
            content += part
            if admission.buffered > MOST_BUFFERED:
                raise Overload(admission.waiting)
    finally:
        admission.buffered -= len(content)
    if len(content) > service.max_bytes:
        raise Refusal(413, f"the body has more than {service.max_bytes} bytes; send fewer rows")
    return bytes(content)


def _request_id(given: bytes) -> str:
    """The client's, where it can be logged and echoed; else one of our own."""
    if 0 < len(given) <= 128 and given.isascii() and (text := given.decode()).isprintable():
        return text
    return os.urandom(16).hex()


async def _send(
    send: Send, status: int, kind: str, body: bytes, headers: list[tuple[bytes, bytes]]
) -> None:
    headers += (
        (b"content-type", kind.encode()),
        (b"content-length", b"%d" % len(body)),
    )
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def worker() -> Worker:
    return bentoml.get_current_service()


def _error(text: str, errors: list[RowError] | None = None) -> bytes:
    return to_json({"error": text, "errors": [e._asdict() for e in errors or []]})
