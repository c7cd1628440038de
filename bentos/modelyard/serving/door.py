"""`/predict` and `/model` as a bare ASGI app, in front of BentoML's.

BentoML's middleware costs several times what a prediction does (docs/decisions/0030), so a
request of these two routes does not pass through it. What it would have done for them is
done here: metrics, readiness, a bound on what waits. All else is BentoML's.
"""

import logging
import os
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import bentoml
from pydantic_core import to_json

from modelyard.serving.encoding import RowError
from modelyard.serving.parsing import JSON, Refusal

if TYPE_CHECKING:
    from modelyard.serving.app import ModelService

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

RETRY_AFTER_S = 1

logger = logging.getLogger("bentoml.modelyard")


class Door:
    """The model's own routes to `routes`, everything else to BentoML's app."""

    def __init__(self, bento: App, routes: App, prefix: str) -> None:
        self._bento = bento
        self._routes = routes
        self._own = frozenset((f"{prefix}/predict", f"{prefix}/model"))
        self._metrics = f"{prefix}/metrics"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._bento(scope, receive, send)
        elif scope["path"] in self._own:
            await self._routes(scope, receive, send)
        else:
            if scope["path"] == self._metrics:
                _service().flush_metrics()
            await self._bento(scope, receive, send)


class Routes:
    """`POST /predict` and `GET /model`."""

    def __init__(self, prefix: str) -> None:
        self._predict = f"{prefix}/predict"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = time.perf_counter()
        service = _service()
        kind, request_id = JSON, ""
        for name, value in scope["headers"]:
            if name == b"content-type":
                kind = value.decode("latin-1").partition(";")[0].strip().lower()
            elif name == b"x-request-id":
                request_id = value.decode("latin-1")
        if not (0 < len(request_id) <= 128 and request_id.isascii() and request_id.isprintable()):
            request_id = os.urandom(16).hex()
        predict, status = scope["path"] == self._predict, 200
        headers = [(b"x-request-id", request_id.encode()), service.version_header]
        if service.draining:
            headers.append((b"connection", b"close"))
        try:
            allowed = ("POST",) if predict else ("GET", "HEAD")
            if scope["method"] not in allowed:
                headers.append((b"allow", ", ".join(allowed).encode()))
                raise Refusal(405, f"{scope['method']}: {scope['path']} takes {allowed[0]}")
            if predict:
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
    """More requests wait than may; a client may try again."""

    def __init__(self, waiting: int) -> None:
        super().__init__(503, f"overloaded: {waiting} requests wait; try again")


async def _predictions(
    service: "ModelService", kind: str, request_id: str, receive: Receive
) -> tuple[str, bytes]:
    """Content type and body of the answer.

    Raises:
        Refusal: the request can't be answered with predictions.
    """
    if service.predictor is None or service.problem:
        raise Refusal(503, f"not ready: {service.problem}")
    # Before its body is read, too: what is refused shall cost little.
    _admit(service)
    message = await receive()
    body = message.get("body", b"")
    if message.get("more_body") or len(body) > service.max_bytes:
        body = await _rest(body, message, receive, service.max_bytes)
    _admit(service)
    service.waiting += 1
    try:
        return await service.predictor.answer(kind, body, request_id)
    finally:
        service.waiting -= 1


def _admit(service: "ModelService") -> None:
    if service.waiting >= service.max_waiting:
        raise Overload(service.waiting)


async def _rest(body: bytes, message: dict[str, Any], receive: Receive, most: int) -> bytes:
    content = bytearray(body)
    while message.get("more_body") and len(content) <= most:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refusal(400, "the client went away before the end of the body")
        content += message.get("body", b"")
    if len(content) > most:
        raise Refusal(413, f"the body has more than {most} bytes; send less rows")
    return bytes(content)


async def _send(
    send: Send, status: int, kind: str, body: bytes, headers: list[tuple[bytes, bytes]]
) -> None:
    headers += (
        (b"content-type", kind.encode()),
        (b"content-length", b"%d" % len(body)),
    )
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _service() -> "ModelService":
    return bentoml.get_current_service()


def _error(text: str, errors: list[RowError] | None = None) -> bytes:
    return to_json({"error": text, "errors": [e._asdict() for e in errors or []]})
