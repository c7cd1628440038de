"""Requests of the past, sent into the shadow where live traffic is too thin to decide it.

They go to stable and, copied, to the candidate, over a route of their own and counted apart:
no user waits for one, and none of them is part of the live split.
"""

import time
import uuid
from pathlib import Path

from modelyard.delivery.local.envoy.process import Envoy
from modelyard.delivery.local.envoy.xds import ARM_HEADER
from modelyard.delivery.local.folders import Folders
from modelyard.delivery.local.prediction_log import latest_requests
from modelyard.delivery.local.predictions import SHADOW_ID
from modelyard.delivery.local.process_supervisor import wait_until
from modelyard.delivery.local.reference import reference_rows
from modelyard.delivery.local.replay import Sender, body
from modelyard.documents.http import REQUEST_ID_HEADER

_MOST = 5000
_MEASURE_S = 1.0
_DRAIN_S = 10.0


class ShadowReplay:
    """Tops live traffic up to `rate` requests a second.

    With stable's newest logged requests; before there are any, with the rows of its reference.
    """

    def __init__(self, envoy: Envoy, folders: Folders, rate: float) -> None:
        self._envoy, self._folders, self._rate = envoy, folders, rate
        self._sender: Sender | None = None
        self._stable = 0
        self._measured = (0.0, 0, rate)
        """when, live requests until then, what they leave of the rate"""

    def start(self, stable: int) -> None:
        """Begin, unless begun."""
        if self._sender is not None:
            return
        bodies = past_requests(self._folders.predictions(stable), self._folders.package(stable))
        self._stable = stable
        self._measured = (time.monotonic(), self._live(), 0.0)
        url = f"http://127.0.0.1:{self._envoy.port}"
        self._sender = Sender(url, bodies, self._gap, _headers)
        self._sender.start()

    def stop(self, wait: bool) -> None:
        """Send no more; `wait` until both versions have answered what was sent."""
        if self._sender is None:
            return
        self._sender.stop(wait)
        self._sender = None
        if wait:
            wait_until(lambda: self._envoy.idle("replay-v[0-9]*"), _DRAIN_S)

    def _gap(self) -> float:
        """What live traffic leaves of the rate, measured anew each second."""
        then, before, gap = self._measured
        now = time.monotonic()
        if now - then < _MEASURE_S:
            return gap
        live = self._live()
        gap = max(0.0, self._rate - max(0, live - before) / (now - then))
        self._measured = (now, live, gap)
        return gap

    def _live(self) -> int:
        try:
            arms = self._envoy.arms()
        except ConnectionError:
            return self._measured[1]
        found = arms.get(f"v{self._stable}")
        return found.requests if found else 0


def past_requests(log: Path, package: Path) -> list[bytes]:
    """The newest of a prediction log, but not those that a shadow was sent before; if there are
    none, one for each row of the package's reference.

    Raises:
        UserError: there are no rows in the package either.
    """
    logged = [r.inputs for r in latest_requests(log, _MOST, without=SHADOW_ID)]
    return [body(rows) for rows in logged or [[row] for row in reference_rows(package, _MOST)]]


def _headers() -> dict[str, str]:
    return {ARM_HEADER: "shadow", REQUEST_ID_HEADER: f"{SHADOW_ID}{uuid.uuid4()}"}
