"""SIGTERM is told to the service first, and to uvicorn when requests have stopped coming.

Relies on: uvicorn having set its handler, a plain `signal.signal` one, before the application's
startup, so that it can be taken and called later.
Upstream: none known. uvicorn closes idle connections at once by intent (Kludex/uvicorn#150).
"""

import asyncio
import signal
from collections.abc import Callable
from types import FrameType


def on_sigterm(begin: Callable[[], None], seconds: float) -> None:
    """Call `begin` at the first SIGTERM, and let the server's own handler have it later.

    uvicorn closes idle connections at once when it gets the signal, and the request that is
    just coming in on one of them would be lost. `begin` has each answer close its connection
    instead.
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
