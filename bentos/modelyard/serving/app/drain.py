"""SIGTERM: not ready at once, while requests that are still sent here are still answered."""

import math
import os

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
