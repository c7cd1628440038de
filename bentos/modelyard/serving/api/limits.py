"""What may wait for an answer in one worker: not too many requests, and not too much work."""

import asyncio
import math
import time
from typing import Any

MOST = 128
"""requests; see `most_waiting`"""
QUEUE_S = 0.01
"""that they may take to be answered, all together"""
REQUEST_S = 70e-6
"""that one row takes without the graph (docs/decisions/0033)"""
MOST_BYTES = 2**20
"""of bodies: as JSON they take about 10 ns a byte, which is `QUEUE_S`, too"""
LARGE_BYTES = 64 * 1024
"""no body counts for more: a few large ones shall not keep the small ones out"""
STANDING = 1 / 3
"""of these bounds, while requests are refused all the time: a queue that stays full adds
nothing but latency (Nichols and Jacobson, "Controlling Queue Delay", 2012)"""
BURST_S = 0.1
"""after which refusals are no burst's, and without any of which they are over"""
PROBE_S = 30.0
"""after which the whole queue is tried again: those who ask may fit into it by now"""
MOST_BUFFERED = 256 * 2**20
"""bytes of bodies that are still coming, slowly, and hold no place"""
BODY_S, DRAINING_BODY_S = 60.0, 5.0
"""that a body may take to come; a server that was told to end shall not wait for long"""
LATE = "the body was not all there in time"


def most_waiting(row_s: float) -> int:
    """How many one-row requests are answered in `QUEUE_S`, from 16 to `MOST`.

    Args:
        row_s: seconds that the graph takes for a row.
    """
    return max(16, min(MOST, int(QUEUE_S / (REQUEST_S + row_s))))


class Admission:
    """The bound of the queue. A place is held from the end of a body to its answer."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.shrinks = False
        """whether to keep `STANDING` of it only; not where requests wait for something else
        than the processor, and more of them at once mean more answers"""
        self.waiting = 0
        """requests"""
        self.buffered = 0
        """bytes of the bodies that are still coming"""
        self.reading: dict[asyncio.Task[Any] | None, float] = {}
        """tasks that wait for their body → since when (`time.monotonic`)"""
        self._bytes = 0
        self._expected = self._expected_bytes = 0
        self._refusing = self._refused = -math.inf  # since when, and last

    def full(self, size: int) -> bool:
        """Whether a request with so many bytes finds no place. Alone, any does."""
        others = self.waiting + self._expected
        if not others:
            return False
        now = time.monotonic()
        paused = now - self._refused > BURST_S
        standing = self.shrinks and not paused and self._refused - self._refusing > BURST_S
        share = STANDING if standing else 1.0
        bytes_ = self._bytes + self._expected_bytes + min(size, LARGE_BYTES)
        if others < self.most * share and bytes_ <= MOST_BYTES * share:
            return False
        if paused or now - self._refusing > PROBE_S:
            self._refusing = now
        self._refused = now
        return True

    def expect(self, size: int) -> None:
        """A request has just been read; it enters in this turn of the event loop, if it does."""
        if not self._expected:
            asyncio.get_running_loop().call_soon(self._forget)
        self._expected += 1
        self._expected_bytes += min(size, LARGE_BYTES)

    def enter(self, size: int) -> None:
        self.waiting += 1
        self._bytes += min(size, LARGE_BYTES)

    def leave(self, size: int) -> None:
        self.waiting -= 1
        self._bytes -= min(size, LARGE_BYTES)

    def give_up(self, seconds: float) -> None:
        """Cancel, as `LATE`, what has been waiting for its body for longer.

        To be called now and then: a timer for each request would cost a tenth of it.
        """
        now = time.monotonic()
        for task, since in self.reading.items():
            if task and now - since > seconds:
                task.cancel(LATE)

    def _forget(self) -> None:
        # The tasks of all that was expected were made after this call, and run after it.
        self._expected = self._expected_bytes = 0
