"""What came in between two looks, and histograms: arithmetic of counts."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from modelyard.delivery.ports import Arm, Counts, Pairs, Slice

Histogram = Mapping[float, float]
"""upper edge of a bucket (inf: the last) → count in it; a bucket begins at the edge before"""


@dataclass(frozen=True)
class Block:
    """What came in between two looks."""

    stable: Arm
    candidate: Arm
    pairs: Pairs | None = None
    """of the shadow, where predictions are compared"""


def difference(before: Counts, now: Counts) -> Block:
    """What came in between, of totals that did not begin anew."""
    stable, candidate = arms(before, now)
    return Block(stable, candidate, _pairs(before.pairs, now.pairs))


def arms(before: Counts, now: Counts) -> tuple[Arm, Arm]:
    """Stable's and the candidate's counts in between."""
    return (
        _minus(now.stable or _NONE, before.stable or _NONE),
        _minus(now.candidate or _NONE, before.candidate or _NONE),
    )


def answered(before: Counts, now: Counts) -> tuple[int, int]:
    """Stable's and the candidate's requests in between."""
    return (
        (now.stable or _NONE).requests - (before.stable or _NONE).requests,
        (now.candidate or _NONE).requests - (before.candidate or _NONE).requests,
    )


def continues(before: Counts | None, now: Counts) -> bool:
    """False if the totals began anew in between."""
    if before is None:
        return True
    pairs = [
        (before.stable or _NONE, now.stable or _NONE),
        (before.candidate or _NONE, now.candidate or _NONE),
    ]
    return before.epoch == now.epoch and all(
        b.requests <= n.requests
        and b.failures <= n.failures
        and sum(b.latency.values()) <= sum(n.latency.values())
        and sum(b.scores.values()) <= sum(n.scores.values())
        for b, n in pairs
    )


def quantile(latency: Mapping[float, float], q: float) -> float | None:
    """The `q` quantile of a histogram, ms, linear inside a bucket; None if it is empty."""
    total, seen = sum(latency.values()), 0.0
    for low, edge, count in buckets(latency):
        if count and seen + count >= q * total:
            return low if math.isinf(edge) else low + (edge - low) * (q * total - seen) / count
        seen += count
    return None


def even_edges(scores: Histogram, many: int) -> tuple[float, ...]:
    """Those nearest to stable's many quantiles, as far as they are different ones."""
    total, edges = sum(scores.values()), sorted(edge for edge in scores if math.isfinite(edge))
    below = {edge: up_to(scores, edge) / total for edge in edges}
    usable = [edge for edge in edges if 0.01 <= below[edge] <= 0.99]
    levels = [(n + 0.5) / many for n in range(many)]
    found = {min(usable, key=lambda e: abs(below[e] - level)) for level in levels if usable}
    return tuple(sorted(found))


def quantile_bucket(hist: Histogram, q: float) -> tuple[float, float] | None:
    """The edges that the `q` quantile is between; None where there is no such bucket, or it has
    no upper edge."""
    total, seen = sum(hist.values()), 0.0
    for low, edge, count in buckets(hist):
        seen += count
        if count and seen >= q * total:
            return (low, edge) if math.isfinite(edge) and q <= 1 else None
    return None


def buckets(hist: Histogram) -> Iterator[tuple[float, float, float]]:
    """Lower edge, upper edge, count."""
    low = 0.0
    for edge in sorted(hist):
        yield low, edge, hist[edge]
        low = edge


def above(hist: Histogram, limits: Sequence[float]) -> tuple[list[float], list[float]]:
    """For each limit the counts in buckets that begin at or above it: surely above it; and
    those in buckets that end above it: possibly above it."""
    if not hist:
        return [0.0] * len(limits), [0.0] * len(limits)
    edges = sorted(hist)
    up_to_edge = np.cumsum([0.0, *(hist[edge] for edge in edges)])
    below = np.searchsorted(edges, limits, side="left")
    within = np.searchsorted(edges, limits, side="right")
    straddling = up_to_edge[np.minimum(below + 1, len(edges))]
    return (up_to_edge[-1] - straddling).tolist(), (up_to_edge[-1] - up_to_edge[within]).tolist()


def up_to(hist: Histogram, edge: float) -> float:
    return sum(count for upper, count in hist.items() if upper <= edge)


def added(a: Histogram, b: Histogram) -> dict[float, float]:
    return {**a, **{edge: a.get(edge, 0) + count for edge, count in b.items()}}


_NONE, _NO_SLICE = Arm(), Slice()


def _minus(now: Arm, before: Arm) -> Arm:
    # Checked totals need no second check: this runs at every look.
    return Arm.model_construct(
        requests=now.requests - before.requests,
        failures=now.failures - before.failures,
        latency=_less(now.latency, before.latency),
        scores=_less(now.scores, before.scores),
    )


def _less(now: dict[float, int], before: dict[float, int]) -> dict[float, int]:
    if not before.keys() <= now.keys():
        return {}  # buckets were merged: what came in between is not known
    return {edge: max(0, count - before.get(edge, 0)) for edge, count in now.items()}


def _pairs(before: Pairs | None, now: Pairs | None) -> Pairs | None:
    """None where pairs were lost or judged anew: such a look tells nothing of them."""
    before = before or Pairs()
    if now is None or now.requests < before.requests or now.disagreement < before.disagreement:
        return None
    slices = {
        name: _slice_minus(each, before.slices.get(name, _NO_SLICE))
        for name, each in now.slices.items()
    }
    return Pairs(
        requests=now.requests - before.requests,
        disagreement=now.disagreement - before.disagreement,
        slices=slices,
    )


def _slice_minus(now: Slice, before: Slice) -> Slice:
    return Slice(
        requests=max(0, now.requests - before.requests),
        disagreement=max(0.0, now.disagreement - before.disagreement),
    )
