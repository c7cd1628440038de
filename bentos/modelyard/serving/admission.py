"""What may wait for an answer in one worker: not too many requests, and not too much work."""

import asyncio
import math
import time

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
STANDING = 0.25
"""of these bounds, for a while after the queue was full: a queue that stays full adds nothing
but latency (Nichols and Jacobson, "Controlling Queue Delay", 2012)"""
CALM_S = 10.0
"""after which the whole queue is there again, for the next burst"""
MOST_BUFFERED = 256 * 2**20
"""bytes of bodies that are still coming, slowly, and hold no place"""


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
        self._bytes = 0
        self._expected = self._expected_bytes = 0
        self._overflowed = -math.inf

    def full(self, size: int) -> bool:
        """Whether a request with so many bytes finds no place. Alone, any does."""
        others = self.waiting + self._expected
        if not others:
            return False
        bytes_ = self._bytes + self._expected_bytes + min(size, LARGE_BYTES)
        if others >= self.most or bytes_ > MOST_BYTES:
            if self.shrinks:
                self._overflowed = time.monotonic()
            return True
        if time.monotonic() - self._overflowed > CALM_S:
            return False
        return others >= self.most * STANDING or bytes_ > MOST_BYTES * STANDING

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

    def _forget(self) -> None:
        # The tasks of all that was expected were made after this call, and run after it.
        self._expected = self._expected_bytes = 0
