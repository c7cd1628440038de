"""Of prometheus_client: many observations at once, and the files of workers that were killed.

Relies on: a histogram's `_buckets`, `_sum`; the names of the files in $PROMETHEUS_MULTIPROC_DIR.
Upstream: prometheus/client_python#733 asks for many observations at once (closed: no), #115 for
the files of the killed (closed: whoever supervises shall remove them).
"""

import os
from pathlib import Path

from prometheus_client import Histogram, multiprocess


def observe_counts(histogram: Histogram, counts: list[int], total: float) -> None:
    """What `observe` would do for each of the values, which takes one at a time.

    Args:
        counts: of values in each bucket, the last one's without an upper bound.
        total: the sum of the values.
    """
    for bucket, count in zip(histogram._buckets, counts, strict=True):
        if count:
            bucket.inc(count)
    histogram._sum.inc(total)


def forget_the_killed() -> None:
    """A worker that was killed has left its gauges, and its queue would be counted for ever."""
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    for file in Path(folder).glob("gauge_live*_*.db") if folder else ():
        pid = file.stem.rpartition("_")[2]
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            multiprocess.mark_process_dead(pid)
        except PermissionError:
            continue  # it lives
