"""uvicorn's HTTP protocol, which keeps idle connections, and refuses early what finds no place.

A server that closes an idle connection just as a proxy sends a request on it fails that request,
and Envoy does not send a prediction twice: the proxy has to be the first to close. By default
Envoy does so after an hour, uvicorn after 5 s.

Under overload most of a worker's time would go into refusing, if each request were a task first.

Relies on: the table `uvicorn.config.HTTP_PROTOCOLS`; attributes and callbacks of
`HttpToolsProtocol` (`cycle`, `headers`, `url`, `parser`, `timeout_keep_alive` …).
Upstream: BentoML passes on no option of uvicorn's, bentoml/BentoML#4671 (closed); none known that
would let uvicorn refuse before there is a task.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import uvicorn.config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

Refuse = Callable[[list[tuple[bytes, bytes]]], bytes | None]
"""headers of a request that has just been read → the whole answer, if it finds no place"""


_IDLE_S = 3900
"""after which a connection is closed here"""
_DEFAULT_IDLE_S = 5
"""uvicorn's and BentoML's"""


def install(path: str, refuse: Refuse | None) -> None:
    """Have uvicorn, when it starts in this process, use this, and ask `refuse` before `POST path`.

    It has no setting for the protocol that BentoML would pass on; this is the table that
    `http="auto"` is looked up in.
    """
    named = {"_path": path.encode(), "_refuse": staticmethod(refuse) if refuse else None}
    protocol: Any = type("Protocol", (_Protocol,), named)
    uvicorn.config.HTTP_PROTOCOLS["auto"] = protocol


class _Answered:
    """In place of the cycle of a request that was answered without one: its body is let go."""

    response_complete = True
    message_event = asyncio.Event()


class _Protocol(HttpToolsProtocol):
    _path: bytes
    _refuse: Refuse | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.timeout_keep_alive == _DEFAULT_IDLE_S:  # else `bentoml serve` was given another
            self.timeout_keep_alive = _IDLE_S

    def on_headers_complete(self) -> None:
        if self._refuse and self._may_answer():
            answer = self._refuse(self.headers)
            if answer is not None:
                self.transport.write(answer)
                self.cycle = _Answered  # pyrefly: ignore[bad-assignment]
                return
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        if self.cycle is _Answered:
            self.on_response_complete()  # the next request, or the time limit until it comes
        else:
            super().on_message_complete()

    def _may_answer(self) -> bool:
        """Whether this is a plain request of the path, and its connection's only one."""
        return (
            self.url == self._path
            and self.parser.get_method() == b"POST"
            and (self.cycle is None or self.cycle.response_complete)
            and not self.expect_100_continue
            and not self.parser.should_upgrade()
            and self.parser.should_keep_alive()
            and self.parser.get_http_version() == "1.1"
        )
