"""Users of a model behind a Gateway: what each of them was told."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from modelyard.delivery.local.replay import Sender, body


@dataclass(frozen=True)
class Answer:
    sent: float
    """seconds since the epoch"""
    seconds: float
    status: int
    """0: none came"""
    version: int | None
    """as the answer's header has it"""
    request_id: str
    text: str
    """what it said, if it failed"""
    by_model: bool
    """a model server's own, not one that something before it gave"""

    @property
    def failed(self) -> bool:
        return not 200 <= self.status < 300


class Traffic(Sender):
    """So many requests a second for a host at an address, as long as the block lasts.

    Open-loop, at most 200 at once, each of one row. None is sent a second time.
    """

    def __init__(
        self, address: str, host: str, rows: Sequence[dict[str, Any]], rate: float = 30
    ) -> None:
        """`address` as `http://10.0.0.1:80`; `rate` may be changed while it runs."""
        self.rate, self.answers = rate, list[Answer]()
        bodies = [body([row]) for row in rows]
        super().__init__(address, bodies, lambda: self.rate, lambda: {"host": host})

    def __enter__(self) -> "Traffic":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def ask(self, client: httpx.AsyncClient, body: bytes) -> bool:
        sent, began = time.time(), time.monotonic()
        try:
            reply = await client.post(f"{self.url}/predict", content=body, headers=self._headers())
            answer = _answer(sent, time.monotonic() - began, reply)
        except httpx.HTTPError as error:
            answer = Answer(sent, time.monotonic() - began, 0, None, "", repr(error), False)
        self.answers.append(answer)
        return not answer.failed

    def failed(self, since: float = 0) -> list[Answer]:
        """Those of requests that were sent since then and not answered well."""
        return [each for each in self.answers if each.failed and each.sent >= since]

    def failed_beside(self, version: int) -> list[Answer]:
        """Those that failed, but for what a model server of this version answered itself."""
        return [each for each in self.failed() if not (each.by_model and each.version == version)]

    def by_version(self, since: float = 0) -> Counter[int | None]:
        """Good answers."""
        good = (each for each in self.answers if not each.failed and each.sent >= since)
        return Counter(each.version for each in good)

    def __repr__(self) -> str:
        """For a test that fails."""
        good = ", ".join(f"v{version}: {count}" for version, count in self.by_version().items())
        failed = self.failed()
        # Cut off: some have the request's id at their end.
        why = Counter((each.status, each.version, each.text[:60]) for each in failed)
        told = [f"{count} × {text}" for text, count in why.most_common(10)]
        return f"{len(self.answers)} requests; good by {good}; {len(failed)} failed: {told}"


def _answer(sent: float, seconds: float, reply: httpx.Response) -> Answer:
    # A Gateway may set the version's header, too, on what it says for a server that is gone;
    # but only a model server writes its errors as JSON.
    version = reply.headers.get("x-model-version", "")
    kind = reply.headers.get("content-type", "")
    return Answer(
        sent,
        seconds,
        reply.status_code,
        int(version) if version.isdecimal() else None,
        reply.headers.get("x-request-id", ""),
        "" if reply.is_success else reply.text,
        bool(version) and kind.startswith("application/json"),
    )
