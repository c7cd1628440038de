"""Histograms with buckets of any width: quantiles, and what is surely or possibly above a value."""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

Histogram = Mapping[float, float]
"""upper edge of a bucket (inf: the last) → count in it; a bucket begins at the edge before"""


def quantile(hist: Histogram, q: float) -> float | None:
    """The `q` quantile of a histogram, linear inside a bucket; None if it is empty."""
    total, seen = sum(hist.values()), 0.0
    for low, edge, count in buckets(hist):
        if count and seen + count >= q * total:
            return low if math.isinf(edge) else low + (edge - low) * (q * total - seen) / count
        seen += count
    return None


def even_edges(hist: Histogram, many: int) -> tuple[float, ...]:
    """The edges nearest to so many quantiles, as far as they are different ones."""
    total, edges = sum(hist.values()), sorted(edge for edge in hist if math.isfinite(edge))
    below = {edge: up_to(hist, edge) / total for edge in edges}
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
