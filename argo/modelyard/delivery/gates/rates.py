"""From histograms to hit rates: who is slow, and which scores are low."""

import math
from dataclasses import dataclass, field, replace

import numpy as np

from modelyard.delivery.evidence.counts import Arm
from modelyard.delivery.evidence.differences import Block
from modelyard.delivery.gates.test_plan import EDGES, RATIOS
from modelyard.delivery.policy import Latency
from modelyard.statistics.histograms import (
    Histogram,
    above,
    added,
    buckets,
    even_edges,
    quantile_bucket,
    up_to,
)
from modelyard.statistics.sequential import Floats

KNOWN = 50
"""requests of stable, before its quantile or its scores' edges are taken from them"""
_FADE = 2000.0
"""requests of stable over which its latency is remembered"""


@dataclass(frozen=True)
class Slow:
    """What is slow: stable's latency, older requests counting less and less."""

    stable: dict[float, float] = field(default_factory=dict)
    """upper edge, ms → requests"""

    def updated(self, arm: Arm) -> "Slow":
        fade = math.exp(-arm.requests / _FADE)
        kept = {edge: count * fade for edge, count in self.stable.items()}
        return Slow(added(kept, arm.latency))

    def bucket(self, gate: Latency) -> tuple[float, float] | None:
        """The edges that stable's quantile is between; None if it is not known yet, or in the last
        bucket."""
        known = sum(self.stable.values()) >= KNOWN
        return quantile_bucket(self.stable, gate.quantile) if known else None

    def streams(self, gate: Latency, block: Block) -> tuple[list[list[float]], list[float]]:
        """n_s, k_s, n_c, k_c of requests that are slow, in pairs of streams: first for the policy's
        limit, then for each ratio.

        Slow at stable is above x, an edge of its quantile's bucket; at the candidate above the
        limit for x. The first of a pair tells what is surely too slow: x is the upper edge, and
        a bucket that holds the limit does not count. The second tells what is surely fast
        enough: x is the lower edge, and that bucket counts.

        The second value is the share of stable's requests that x was exceeded by so far.
        """
        bucket = self.bucket(gate)
        if bucket is None:
            return [[0.0] * 4] * 2 * (1 + len(RATIOS)), [math.nan] * 2 * (1 + len(RATIOS))
        low, high = bucket
        theirs, ours = block.stable.latency, block.candidate.latency
        n_s, n_c = sum(theirs.values()), sum(ours.values())
        over_low, over_high = above(theirs, bucket)[1]
        share_low, share_high = np.array(above(self.stable, bucket)[1]) / sum(self.stable.values())
        surely = above(ours, [latency_limit(gate, high), *(r * high for r in RATIOS)])[0]
        possibly = above(ours, [latency_limit(gate, low), *(r * low for r in RATIOS)])[1]
        blocks = []
        for slow, not_fast in zip(surely, possibly, strict=True):
            blocks += [[n_s, over_high, n_c, slow], [n_s, over_low, n_c, not_fast]]
        return blocks, [share_high, share_low] * len(surely)


@dataclass(frozen=True)
class Shape:
    """Of stable's scores: first only looked at, then compared at edges that divide them evenly."""

    early: dict[float, float] = field(default_factory=dict)
    """stable's, as long as there are no edges"""
    edges: tuple[float, ...] = ()
    unscored: tuple[float, float] = (0.0, 0.0)
    """requests of stable and the candidate so far, less their scores"""

    def updated(self, block: Block) -> "Shape":
        scores = self._by_request(block)
        counted = zip(self.unscored, _arms(block), scores, strict=True)
        s, c = (before + arm.requests - sum(found.values()) for before, arm, found in counted)
        shape = replace(self, unscored=(s, c))
        if self.edges:
            return shape
        early = added(self.early, scores[0])
        known = sum(early.values()) >= KNOWN
        return replace(shape, early=early, edges=even_edges(early, EDGES) if known else ())

    def known(self, streams: int) -> Floats:
        """Stable's early scores, as blocks of all streams."""
        blocks, total = np.zeros((streams, 4)), sum(self.early.values())
        for n, edge in enumerate(self.edges):
            blocks[streams - EDGES + n, :2] = total, up_to(self.early, edge)
        return blocks

    def streams(self, block: Block) -> list[list[float]]:
        """n_s, k_s, n_c, k_c of scores up to each edge."""
        s, c = self._by_request(block)
        n_s, n_c = sum(s.values()), sum(c.values())
        found = [[n_s, up_to(s, edge), n_c, up_to(c, edge)] for edge in self.edges]
        return found + [[0.0] * 4] * (EDGES - len(found))

    def _by_request(self, block: Block) -> list[Histogram]:
        """Rows of one request are not independent, requests are: all its rows count as one.

        A block's scores need not be of the block's own requests: who counts those may be scraped
        at another time.
        """
        found: list[Histogram] = []
        for before, arm in zip(self.unscored, _arms(block), strict=True):
            rows = sum(arm.scores.values())
            credit = max(0.0, before + arm.requests)  # rounding may leave it below 0
            share = min(1.0, credit / rows) if rows else 1.0
            found.append({edge: count * share for edge, count in arm.scores.items()})
        return found


def _arms(block: Block) -> tuple[Arm, Arm]:
    return block.stable, block.candidate


def latency_limit(gate: Latency, stable_ms: float) -> float:
    """What the candidate is allowed where stable takes so long, ms."""
    return max(stable_ms * gate.ratio, stable_ms + gate.slack * 1000)


def too_coarse(ours: Histogram, slow: Slow, gate: Latency) -> str:
    """A bucket that holds both stable's quantile and the limit tells nothing of the candidate."""
    bucket = slow.bucket(gate)
    if bucket is None:
        return ""
    low, limit = bucket[0], latency_limit(gate, bucket[0])
    wide = next((b for b in buckets(ours) if b[2] and b[0] <= low and limit < b[1]), None)
    if wide is None:
        return ""
    return (
        f"; hard to prove: the histogram has no edge between {low:.0f} and {limit:.0f} ms, "
        f"but a bucket of {wide[0]:.0f} to {wide[1]:.0f} ms"
    )
