"""What each gate tries to refute: the nulls of all tests, and what is bet against them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from modelyard.delivery.policy import Gates
from modelyard.statistics.sequential import Null, Plan

EDGES = 8
"""of the score histogram that are compared"""
RATIOS = (0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0)
"""of two latencies that bounds are looked for among"""
SHIFTS = (0.5, 1.0, 2.0)
"""parts of the largest allowed shift that its upper bound is looked for among"""
_DIFFERENCES = (
    0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05,
    0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75,
)  # fmt: skip
"""of two rates that bounds are looked for among"""


@dataclass(frozen=True)
class Layout:
    """Which of a plan's nulls belong to what."""

    plan: Plan
    places: dict[str, slice]
    edges: int
    """streams of the score histogram, the last ones"""


@lru_cache(maxsize=32)
def layout(gates: Gates) -> Layout:
    """Streams: errors; latency, as `Slow.streams` gives them; scores, one an edge."""
    groups = _error_nulls(gates.errors.margin)
    priors = [0.005]
    if gates.latency:
        rest = 1 - gates.latency.quantile
        groups |= _latency_nulls(rest)
        priors += [rest] * 2 * (1 + len(RATIOS))
    edges = EDGES if gates.scores else 0
    if gates.scores:
        groups |= _score_nulls(gates.scores.max_shift, range(len(priors), len(priors) + edges))
        priors += [0.5] * edges
    return Layout(*_laid_out(groups, priors), edges)


def _error_nulls(margin: float) -> dict[str, list[Null]]:
    above = sorted({*_DIFFERENCES, margin})
    lower = [-0.1, -0.03, -0.01, 0.0, *(d for d in above if d >= 0.002)]
    gaps = (margin + 0.02, margin + 0.1, margin + 0.5)
    return {
        "errors.harm": [Null(0, 1, margin, gaps, late=True)],
        "errors.upper": [Null(0, -1, d, (0.0,)) for d in above],
        "errors.lower": [Null(0, 1, d, (d + 0.05,)) for d in lower],
    }


def _latency_nulls(rest: float) -> dict[str, list[Null]]:
    """Surely slower than the limit, or than a ratio, in even streams; possibly, in odd ones."""
    surely = range(1, 2 + 2 * len(RATIOS), 2)
    return {
        "latency.harm": [Null(1, 1, 0.0, (0.05, 0.2, 0.5), late=True)],
        "latency.upper": [Null(s + 1, -1, 0.0, (-rest / 2,)) for s in surely],
        "latency.lower": [Null(s, 1, 0.0, (0.1,)) for s in surely],
    }


def _score_nulls(shift: float, streams: range) -> dict[str, list[Null]]:
    """Both directions at every edge."""
    groups = {
        "scores.harm": [
            Null(s, side, side * shift, (side * (shift + 0.05), side * (shift + 0.25)), late=True)
            for s in streams
            for side in (1, -1)
        ]
    }
    for part in SHIFTS:
        groups[f"scores.upper.{part:g}"] = [
            Null(s, side, -side * min(part * shift, 0.99), (0.0,))
            for s in streams
            for side in (1, -1)
        ]
    return groups


@lru_cache(maxsize=32)
def pair_layout(most: float) -> Layout:
    """One stream: the disagreement of the pairs."""
    above = sorted({*(d for d in _DIFFERENCES if d >= 0.001), most})
    groups = {
        "harm": [Null(0, 1, most, _beyond(most), late=True)],
        "upper": [Null(0, -1, d, (d / 2, d / 10)) for d in above],
        "lower": [Null(0, 1, d, (min(1.5 * d, (1 + d) / 2),)) for d in above],
    }
    return Layout(*_laid_out(groups, [most / 4], single=True), 0)


@lru_cache(maxsize=128)
def slice_plan(most: float, slices: int) -> Plan:
    nulls = [Null(s, 1, most, _beyond(most), late=True) for s in range(slices)]
    return Plan(nulls, [most / 4] * slices, single=True)


@lru_cache(maxsize=32)
def alone_plan(rate: float) -> Plan:
    return Plan([Null(0, 1, rate, _beyond(rate), late=True)], [rate / 4], single=True)


def _beyond(most: float) -> tuple[float, ...]:
    return tuple(most + part * (1 - most) for part in (0.1, 0.3, 0.7))


def _laid_out(
    groups: Mapping[str, list[Null]], priors: list[float], single: bool = False
) -> tuple[Plan, dict[str, slice]]:
    nulls: list[Null] = []
    places = {}
    for name, group in groups.items():
        places[name] = slice(len(nulls), len(nulls) + len(group))
        nulls += group
    return Plan(nulls, priors, single=single), places
