"""SIGTERM: not ready at once, while requests that are still sent here are still answered."""

import asyncio
import math
import os
import signal
from collections.abc import Callable
from types import FrameType

from modelyard.documents import UserError

DRAIN_S = 0.5
"""between the signal and the end of listening; longer than the load balancer takes to notice"""


def drain_s() -> float:
    """$MODELYARD_DRAIN, in seconds.

    Raises:
        UserError: it is no number of seconds.
    """
    given = os.environ.get("MODELYARD_DRAIN", str(DRAIN_S))
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise UserError(f"MODELYARD_DRAIN={given}: must be seconds, 0 or more")
    return seconds


def on_sigterm(begin: Callable[[], None], seconds: float) -> None:
    """Call `begin` at the first SIGTERM, and let the server's own handler have it later.

    The server (uvicorn) closes idle connections at once when it gets the signal, and the
    request that is just coming in on one of them would be lost. `begin` has each answer
    close its connection instead.
    """
    servers = signal.getsignal(signal.SIGTERM)
    if not callable(servers):
        return  # no server runs here, as in a test of the ASGI app
    loop = asyncio.get_running_loop()
    begun = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal begun
        if not begun:
            begun = True
            begin()
            loop.call_soon_threadsafe(loop.call_later, seconds, servers, number, None)

    signal.signal(signal.SIGTERM, handle)
