"""What the counts say about a candidate: is it proven within its limits, or beyond them?

Each gate is a comparison of hit rates, block by block (`modelyard.delivery.sequential`):

- errors: failures, `p_c - p_s` against the margin;
- latency: the share of stable's requests above x, its quantile so far, against the share of the
  candidate's above what the policy allows it for that x;
- scores: the share of scores up to an edge, at several edges, both ways;
- predictions: the mean share of a request's rows that disagree, pair by pair.

A gate *fails* when its e-value reaches the number of tests over alpha: one alpha for the release,
split among the tests. It is *proven* when the opposite is refuted at alpha (not split: all
of them must be proven, so that one wrong one lets nothing through with more than alpha).
Evidence of harm counts from the begin of the shadow; proof begins anew with live traffic.
"""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal

import numpy as np

from modelyard.delivery.counts import (
    Block,
    Histogram,
    above,
    added,
    buckets,
    even_edges,
    quantile,
    quantile_bucket,
    up_to,
)
from modelyard.delivery.policy import Gates, Latency, Policy
from modelyard.delivery.ports import Arm, Pairs, Slice
from modelyard.delivery.sequential import Bets, Floats, Null, Plan, band, rate_bound

Outcome = Literal["pass", "fail", "wait"]

EDGES = 8
"""of the score histogram that are compared"""
_DIFFERENCES = (
    0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05,
    0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75,
)  # fmt: skip
"""that bounds are looked for among"""
_KNOWN = 50
"""requests of stable, before its quantile or its scores' edges are taken from them"""
_FADE = 2000.0
"""requests of stable over which its latency is remembered"""
_RATIOS = (0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0)
"""of two latencies that bounds are looked for among"""
_SHIFTS = (0.5, 1.0, 2.0)
"""parts of the largest allowed shift that its upper bound is looked for among"""
_SHOWN_SLICES = 3
_NO_SLICE = Slice()


@dataclass(frozen=True)
class Verdict:
    """Of one gate, with the figures that it was reached by."""

    gate: str
    """`errors`, `latency`, `predictions`, `predictions carrier=UA`, `scores`"""
    outcome: Outcome
    """pass: proven to be within its limit; fail: proven to be beyond"""
    text: str
    """for people, with the figures"""
    estimate: float | None = None
    lower: float | None = None
    """the confidence bounds of what is estimated, each at alpha; None: none yet"""
    upper: float | None = None
    limit: float | None = None
    unit: str = "share"
    """of estimate, bounds and limit: `share` (of the requests; a difference of two, but for
    predictions) or `ratio` (of two latencies)"""
    e: float | None = None
    """evidence that the candidate is beyond its limit, an e-value"""
    threshold: float | None = None
    """fails once `e` reaches it"""
    more: int | None = None
    """about how many more requests of the candidate would decide; None: not known"""

    @property
    def of_slice(self) -> bool:
        """Only harm is looked for: it need not pass."""
        return self.gate.startswith("predictions ")


@dataclass(frozen=True)
class _Layout:
    """Which of a plan's nulls belong to what."""

    plan: Plan
    places: dict[str, slice]
    edges: int
    """streams of the score histogram, the last ones"""


@lru_cache(maxsize=32)
def _layout(gates: Gates) -> _Layout:
    """Streams: errors; latency, as `_Slow.streams` gives them; scores, one an edge."""
    groups = _error_nulls(gates.errors.margin)
    priors = [0.005]
    if gates.latency:
        rest = 1 - gates.latency.quantile
        groups |= _latency_nulls(rest)
        priors += [rest] * 2 * (1 + len(_RATIOS))
    edges = EDGES if gates.scores else 0
    if gates.scores:
        groups |= _score_nulls(gates.scores.max_shift, range(len(priors), len(priors) + edges))
        priors += [0.5] * edges
    return _Layout(*_laid_out(groups, priors), edges)


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
    surely = range(1, 2 + 2 * len(_RATIOS), 2)
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
    for part in _SHIFTS:
        groups[f"scores.upper.{part:g}"] = [
            Null(s, side, -side * min(part * shift, 0.99), (0.0,))
            for s in streams
            for side in (1, -1)
        ]
    return groups


@lru_cache(maxsize=32)
def _pair_layout(most: float) -> _Layout:
    """One stream: the disagreement of the pairs."""
    above = sorted({*(d for d in _DIFFERENCES if d >= 0.001), most})
    groups = {
        "harm": [Null(0, 1, most, _beyond(most), late=True)],
        "upper": [Null(0, -1, d, (d / 2, d / 10)) for d in above],
        "lower": [Null(0, 1, d, (min(1.5 * d, (1 + d) / 2),)) for d in above],
    }
    return _Layout(*_laid_out(groups, [most / 4], single=True), 0)


@lru_cache(maxsize=128)
def _slice_plan(most: float, slices: int) -> Plan:
    nulls = [Null(s, 1, most, _beyond(most), late=True) for s in range(slices)]
    return Plan(nulls, [most / 4] * slices, single=True)


@lru_cache(maxsize=32)
def _alone_plan(rate: float) -> Plan:
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


@dataclass(frozen=True)
class _Slow:
    """What is slow: stable's latency, older requests counting less and less."""

    stable: dict[float, float] = field(default_factory=dict)
    """upper edge, ms → requests"""

    def after(self, arm: Arm) -> "_Slow":
        fade = math.exp(-arm.requests / _FADE)
        kept = {edge: count * fade for edge, count in self.stable.items()}
        return _Slow(added(kept, arm.latency))

    def bucket(self, gate: Latency) -> tuple[float, float] | None:
        """The edges that stable's quantile is between; None if it is not known yet, or in the last
        bucket."""
        known = sum(self.stable.values()) >= _KNOWN
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
            return [[0.0] * 4] * 2 * (1 + len(_RATIOS)), [math.nan] * 2 * (1 + len(_RATIOS))
        low, high = bucket
        theirs, ours = block.stable.latency, block.candidate.latency
        n_s, n_c = sum(theirs.values()), sum(ours.values())
        over_low, over_high = above(theirs, bucket)[1]
        share_low, share_high = np.array(above(self.stable, bucket)[1]) / sum(self.stable.values())
        surely = above(ours, [latency_limit(gate, high), *(r * high for r in _RATIOS)])[0]
        possibly = above(ours, [latency_limit(gate, low), *(r * low for r in _RATIOS)])[1]
        blocks = []
        for slow, not_fast in zip(surely, possibly, strict=True):
            blocks += [[n_s, over_high, n_c, slow], [n_s, over_low, n_c, not_fast]]
        return blocks, [share_high, share_low] * len(surely)


@dataclass(frozen=True)
class _Shape:
    """Of stable's scores: first only looked at, then compared at edges that divide them evenly."""

    early: dict[float, float] = field(default_factory=dict)
    """stable's, as long as there are no edges"""
    edges: tuple[float, ...] = ()

    def after(self, block: Block) -> "_Shape":
        if self.edges:
            return self
        early = added(self.early, _by_request(block.stable))
        known = sum(early.values()) >= _KNOWN
        return _Shape(early, even_edges(early, EDGES) if known else ())

    def streams(self, block: Block) -> list[list[float]]:
        """n_s, k_s, n_c, k_c of scores up to each edge.

        Rows of one request are not independent, requests are: all its rows count as one.
        """
        s, c = _by_request(block.stable), _by_request(block.candidate)
        n_s, n_c = sum(s.values()), sum(c.values())
        found = [[n_s, up_to(s, edge), n_c, up_to(c, edge)] for edge in self.edges]
        return found + [[0.0] * 4] * (EDGES - len(found))


@dataclass(frozen=True, eq=False)
class Trial:
    """All tests of a release after some looks. Immutable: `after` gives the next."""

    gates: Gates
    alpha: float
    layout: _Layout
    count: int
    """of the tests that share alpha"""
    bets: Bets
    """of the gates that compare two arms"""
    slow: _Slow = _Slow()
    shape: _Shape = _Shape()
    paired: "_Paired | None" = None
    alone: Bets | None = None
    """the candidate's failures at 100 %, where stable has no traffic to compare with"""
    latency: tuple[Histogram, Histogram] = ({}, {})
    """stable's and the candidate's since `anew`"""
    excess: float = 0.0
    """failed requests of users beyond what stable would have had"""
    shadow_bound: float = 1.0
    """upper bound of the excess failure rate that the shadow ended with"""

    @classmethod
    def begin(cls, policy: Policy) -> "Trial":
        gates, predictions = policy.gates, policy.gates.predictions
        more = [gates.latency, gates.scores, predictions, predictions and predictions.slices]
        return cls(
            gates=gates,
            alpha=policy.alpha,
            layout=_layout(gates),
            count=1 + sum(map(bool, more)) + (100 in policy.canary.steps),
            bets=Bets.begin(_layout(gates).plan),
            paired=_Paired.begin(predictions.max_disagreement) if predictions else None,
        )

    def after(self, block: Block, live: bool) -> "Trial":
        """One look more; `live`: the candidate answered users, not copies."""
        gates, s, c = self.gates, block.stable, block.candidate
        slow, shape, bets, expected = self.slow, self.shape, self.bets, [math.nan]
        streams = [
            [s.requests, min(s.failures, s.requests), c.requests, min(c.failures, c.requests)]
        ]
        if gates.latency:
            blocks, shares = slow.streams(gates.latency, block)
            streams, expected = streams + blocks, expected + shares
            slow = slow.after(s)
        if gates.scores:
            streams += shape.streams(block)
            shape = shape.after(block)
        p_s = np.array(expected + [math.nan] * (len(streams) - len(expected)))
        # A quantile is exceeded by 1 - quantile, an edge of its bucket by fewer or by more: by as
        # much the candidate may differ from what stable exceeds that edge by.
        rest = 1 - gates.latency.quantile if gates.latency else 0.0
        bets = bets.after(streams, np.where(np.isnan(p_s), 0.0, rest - p_s), p_s)
        if shape.edges != self.shape.edges:
            bets = bets.remember(_known(shape, len(streams)))
        return replace(
            self,
            bets=bets,
            slow=slow,
            shape=shape,
            paired=self.paired and self.paired.after(block.pairs),
            alone=self.alone and self.alone.after([[0, 0, c.requests, c.failures]]),
            latency=(added(self.latency[0], s.latency), added(self.latency[1], c.latency)),
            excess=self.excess + (self._excess(s, c) if live else 0.0),
        )

    def anew(self) -> "Trial":
        """Only what speaks against the candidate still counts; proof has to come again."""
        return replace(self, bets=self.bets.anew(), latency=({}, {}))

    def go_live(self) -> "Trial":
        """The shadow ends."""
        return replace(self.anew(), shadow_bound=self.excess_bound())

    def stable(self) -> Arm:
        """What stable answered since `anew`."""
        n_s, k_s, *_ = self.bets.seen[0]
        latency = {edge: int(count) for edge, count in self.latency[0].items()}
        return Arm(requests=int(n_s), failures=int(k_s), latency=latency)

    def at_full(self) -> "Trial":
        """From here on stable has no traffic: its failure rate so far, at its upper bound, is what
        the candidate is held against. That half of the test's alpha is spent on."""
        n_s, k_s, *_ = self.bets.seen[0]
        rate = rate_bound(n_s, k_s, self.alpha / self.count / 2) + self.gates.errors.margin
        return replace(self, alone=Bets.begin(_alone_plan(rate)) if rate < 1 else None)

    def excess_bound(self) -> float:
        """Upper bound of `p_c - p_s` of failures, at alpha, since `anew`; 1 if none is known."""
        nulls = self.layout.places["errors.upper"]
        return _least(self.bets, nulls, self.alpha, 1.0)

    def verdicts(self, shadow: bool) -> tuple[Verdict, ...]:
        """Of all gates that apply."""
        found = [self._errors()]
        if self.gates.latency:
            found.append(self._latency(self.gates.latency))
        if self.gates.scores:
            found.append(self._scores(self.gates.scores.max_shift))
        if self.gates.predictions and self.paired and shadow:
            slices = bool(self.gates.predictions.slices)
            found += self.paired.verdicts(self.alpha, self.count, slices)
        return tuple(found)

    def _excess(self, stable: Arm, candidate: Arm) -> float:
        rate = (
            stable.failures / stable.requests
            if stable.requests
            else float(self.bets.stable_rates()[0])
        )
        return candidate.failures - candidate.requests * rate

    def _errors(self) -> Verdict:
        places, margin = self.layout.places, self.gates.errors.margin
        n_s, k_s, n_c, k_c = self.bets.seen[0]
        upper = self.excess_bound()
        lower = _greatest(self.bets, places["errors.lower"], self.alpha, -1.0)
        e, threshold = float(self.bets.e[places["errors.harm"]][0]), self.count / self.alpha
        if self.alone is not None and self.alone.e[0] / 2 > e:
            e = float(self.alone.e[0]) / 2
        return _verdict(
            "errors",
            f"{k_c:.0f} of {n_c:.0f} failed at the candidate, {k_s:.0f} of {n_s:.0f} at stable; "
            f"{_between(lower, upper)} (margin {margin:.2%})",
            e=e,
            threshold=threshold,
            proven=upper <= margin,
            estimate=k_c / n_c - k_s / n_s if n_s and n_c else None,
            lower=lower,
            upper=upper,
            limit=margin,
            more=_more(self._proof("errors.upper", margin), self.alpha, e, threshold, n_c),
        )

    def _latency(self, gate: Latency) -> Verdict:
        (theirs, ours), name = self.latency, f"p{gate.quantile * 100:g}"
        e, threshold = self._harm("latency.harm"), self.count / self.alpha
        c, s = quantile(ours, gate.quantile), quantile(theirs, gate.quantile)
        if not c or not s:
            text = f"{name}: no latencies yet"
            return _verdict("latency", text, e=e, threshold=threshold, proven=False, unit="ratio")
        limit, proofs = latency_limit(gate, s), self.bets.best[self.layout.places["latency.upper"]]
        refuted = self.bets.best[self.layout.places["latency.lower"]] >= 1 / self.alpha
        ratios = (limit / s, *_RATIOS)
        return _verdict(
            "latency",
            f"{name} {c:.0f} ms{self._band(ours, gate)} at the candidate, {s:.0f} ms"
            f"{self._band(theirs, gate)} at stable (limit {limit:.0f} ms)"
            + _too_coarse(ours, self.slow, gate),
            e=e,
            threshold=threshold,
            proven=bool(proofs[0] >= 1 / self.alpha),
            estimate=c / s,
            lower=max(itertools.compress(ratios, refuted), default=0.0),
            upper=min(itertools.compress(ratios, proofs >= 1 / self.alpha), default=None),
            limit=limit / s,
            unit="ratio",
            more=_more(float(proofs[0]), self.alpha, e, threshold, self.bets.seen[0][2]),
        )

    def _band(self, hist: Histogram, gate: Latency) -> str:
        """A quantile's band at alpha, ms; nothing where it has no upper end yet."""
        off = band(sum(hist.values()), gate.quantile, self.alpha)
        low, high = (quantile_bucket(hist, gate.quantile + off * side) for side in (-1, 1))
        return f" ({low[0]:.0f} to {high[1]:.0f})" if low and high else ""

    def _scores(self, most: float) -> Verdict:
        places, used = self.layout.places, len(self.shape.edges)
        e, threshold = self._harm("scores.harm"), self.count / self.alpha
        n_s, k_s, n_c, k_c = self.bets.seen[-EDGES:][:used].T
        if not used or not n_s.all() or not n_c.all():
            few = sum(self.shape.early.values()) < _KNOWN
            why = "no scores yet" if few or used else "all of stable's scores are in one bucket"
            return _verdict("scores", why, e=e, threshold=threshold, proven=False)
        shift = np.abs(k_c / n_c - k_s / n_s)
        proofs = {
            part * most: float(self.bets.best[places[f"scores.upper.{part:g}"]][: 2 * used].min())
            for part in _SHIFTS
        }
        upper = min((d for d, proof in proofs.items() if proof >= 1 / self.alpha), default=1.0)
        edge = self.shape.edges[int(shift.argmax())]
        return _verdict(
            "scores",
            f"shifted by {shift.max():.3f} at most, at {edge:g} (limit {most:g}): "
            f"{(k_c / n_c)[shift.argmax()]:.1%} up to there at the candidate, "
            f"{(k_s / n_s)[shift.argmax()]:.1%} at stable",
            e=e,
            threshold=threshold,
            proven=upper <= most,
            estimate=float(shift.max()),
            lower=most if e >= threshold else 0.0,
            upper=upper,
            limit=most,
            more=_more(proofs[most], self.alpha, e, threshold, float(n_c.max())),
        )

    def _harm(self, group: str) -> float:
        """The mean of e-values is one, however they hang together."""
        return float(self.bets.e[self.layout.places[group]].mean())

    def _proof(self, group: str, d: float) -> float:
        layout = self.layout
        place = layout.places[group]
        nulls = layout.plan.nulls[place]
        return float(self.bets.best[place][[n.d for n in nulls].index(d)])


@dataclass(frozen=True, eq=False)
class _Paired:
    """The tests of the paired predictions, whole and by slice."""

    most: float
    bets: Bets
    slices: Bets | None = None
    names: tuple[str, ...] = ()
    """of the slices, in the order in which they came up"""

    @classmethod
    def begin(cls, most: float) -> "_Paired":
        return cls(most, Bets.begin(_pair_layout(most).plan))

    def after(self, pairs: Pairs | None) -> "_Paired":
        if pairs is None:
            return self
        bets = self.bets.after([_one_arm(pairs.requests, pairs.disagreement)])
        new = tuple(name for name in pairs.slices if name not in self.names)
        names, slices = self.names + new, self.slices
        if new:
            plan = _slice_plan(self.most, len(names))
            slices = slices.grown(plan) if slices else Bets.begin(plan)
        if slices:
            found = (pairs.slices.get(name, _NO_SLICE) for name in names)
            slices = slices.after([_one_arm(s.requests, s.disagreement) for s in found])
        return _Paired(self.most, bets, slices, names)

    def verdicts(self, alpha: float, count: int, slices: bool) -> Iterator[Verdict]:
        """Of all pairs; and of the slices with the most evidence against them, if `slices`."""
        places = _pair_layout(self.most).places
        upper = _least(self.bets, places["upper"], alpha, 1.0)
        lower = _greatest(self.bets, places["lower"], alpha, 0.0)
        nulls = [null.d for null in self.bets.plan.nulls[places["upper"]]]
        proof = float(self.bets.best[places["upper"]][nulls.index(self.most)])
        e = float(self.bets.e[places["harm"]][0])
        seen, threshold = self.bets.seen[0], count / alpha
        more = _more(proof, alpha, e, threshold, seen[2])
        yield self._verdict(
            "predictions",
            seen,
            e,
            threshold,
            upper <= self.most,
            lower=lower,
            upper=upper,
            more=more,
        )
        if slices and self.slices:
            yield from self._worst(self.slices, threshold)

    def _worst(self, slices: Bets, threshold: float) -> Iterator[Verdict]:
        # The j-th slice has 1 / (j (j + 1)) of the slices' part of alpha: these sum to 1
        # however many there will be.
        j = np.arange(1, len(self.names) + 1)
        needed = threshold * j * (j + 1)
        for n in np.argsort(-slices.e / needed, kind="stable")[:_SHOWN_SLICES]:
            name, seen = f"predictions {self.names[n]}", slices.seen[n]
            yield self._verdict(name, seen, float(slices.e[n]), float(needed[n]), False)

    def _verdict(
        self,
        gate: str,
        seen: Floats,
        e: float,
        threshold: float,
        proven: bool,
        lower: float | None = None,
        upper: float | None = None,
        more: int | None = None,
    ) -> Verdict:
        n, k = seen[2:]
        return _verdict(
            gate,
            f"{k:.0f} of {n:.0f} paired predictions disagree (at most {self.most:.0%})",
            e=e,
            threshold=threshold,
            proven=proven,
            estimate=k / n if n else None,
            lower=lower,
            upper=upper,
            limit=self.most,
            more=more,
        )


def beyond(gates: Gates, stable: Arm, candidate: Arm) -> str | None:
    """Which estimate of these counts alone is not within its limit, for people; None: all are."""
    if not stable.requests or not candidate.requests:
        return "no requests to compare"
    excess = candidate.failures / candidate.requests - stable.failures / stable.requests
    if excess > gates.errors.margin:
        return (
            f"errors: {candidate.failures} of {candidate.requests} failed at the candidate, "
            f"{stable.failures} of {stable.requests} at stable"
        )
    if gates.latency:
        q = gates.latency.quantile
        ours, theirs = quantile(candidate.latency, q), quantile(stable.latency, q)
        if ours is None or theirs is None:
            return "latency: none yet"
        if ours > latency_limit(gates.latency, theirs):
            return (
                f"latency: p{q * 100:g} {ours:.0f} ms at the candidate, {theirs:.0f} ms at stable"
            )
    return None


def latency_limit(gate: Latency, stable_ms: float) -> float:
    """What the candidate is allowed where stable takes so long, ms."""
    return max(stable_ms * gate.ratio, stable_ms + gate.slack * 1000)


def _verdict(
    gate: str,
    text: str,
    *,
    e: float,
    threshold: float,
    proven: bool,
    estimate: float | None = None,
    lower: float | None = None,
    upper: float | None = None,
    limit: float | None = None,
    unit: str = "share",
    more: int | None = None,
) -> Verdict:
    outcome: Outcome = "fail" if e >= threshold else "pass" if proven else "wait"
    return Verdict(
        gate,
        outcome,
        text,
        estimate=_rounded(estimate),
        lower=_rounded(lower),
        upper=_rounded(upper),
        limit=_rounded(limit),
        unit=unit,
        e=_rounded(e),
        threshold=_rounded(threshold),
        more=more,
    )


def _rounded(value: float | None) -> float | None:
    """Six digits: a record is read by people, too."""
    return None if value is None else float(f"{value:.6g}")


def _more(proof: float, alpha: float, e: float, threshold: float, n: float) -> int | None:
    """At the pace so far; None where neither proof nor harm gains."""
    ways = [(proof, 1 / alpha), (e, threshold)]
    if any(now >= wanted for now, wanted in ways):
        return 0
    paces = [n * (math.log(wanted) / math.log(now) - 1) for now, wanted in ways if now > 1.05]
    return math.ceil(min(paces)) if paces else None


def _least(bets: Bets, nulls: slice, alpha: float, default: float) -> float:
    found = [
        null.d
        for null, e in zip(bets.plan.nulls[nulls], bets.best[nulls], strict=True)
        if e >= 1 / alpha
    ]
    return min(found, default=default)


def _greatest(bets: Bets, nulls: slice, alpha: float, default: float) -> float:
    found = [
        null.d
        for null, e in zip(bets.plan.nulls[nulls], bets.best[nulls], strict=True)
        if e >= 1 / alpha
    ]
    return max(found, default=default)


def _known(shape: _Shape, streams: int) -> Floats:
    """Stable's early scores, as blocks of all streams."""
    blocks = np.zeros((streams, 4))
    total = sum(shape.early.values())
    for n, edge in enumerate(shape.edges):
        blocks[streams - EDGES + n, :2] = total, up_to(shape.early, edge)
    return blocks


def _too_coarse(ours: Histogram, slow: _Slow, gate: Latency) -> str:
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


def _between(lower: float, upper: float) -> str:
    """Two percentages, or what little is known."""
    if upper >= 1 and lower <= -1:
        return "not known how far apart"
    if lower <= -1 or upper >= 1:
        return f"at least {lower:+.2%} apart" if upper >= 1 else f"at most {upper:+.2%} apart"
    return f"{lower:+.2%} to {upper:+.2%} apart"


def _by_request(arm: Arm) -> Histogram:
    rows = sum(arm.scores.values())
    if rows <= arm.requests:
        return arm.scores
    return {edge: count * arm.requests / rows for edge, count in arm.scores.items()}


def _one_arm(requests: int, hits: float) -> list[float]:
    return [0.0, 0.0, float(requests), min(hits, float(requests))]
