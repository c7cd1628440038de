"""What the counts say about a candidate: is it proven within its limits, or beyond them?

Each gate is a comparison of hit rates, block by block (`modelyard.statistics.sequential`):

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

import math
from dataclasses import dataclass, replace

import numpy as np

from modelyard.delivery.evidence.counts import Arm
from modelyard.delivery.evidence.differences import Block
from modelyard.delivery.gates.paired import Paired
from modelyard.delivery.gates.rates import KNOWN, Shape, Slow, latency_limit, too_coarse
from modelyard.delivery.gates.test_plan import EDGES, RATIOS, SHIFTS, Layout, alone_plan, layout
from modelyard.delivery.gates.verdicts import Level, Verdict, difference_text, spanning
from modelyard.delivery.policy import Gates, Latency, Policy
from modelyard.statistics.histograms import Histogram, added, quantile, quantile_bucket
from modelyard.statistics.sequential import Bets, band, rate_bound


@dataclass(frozen=True, eq=False)
class Trial:
    """All tests of a release after some looks. Immutable: `updated` gives the next."""

    gates: Gates
    level: Level
    layout: Layout
    bets: Bets
    """of the gates that compare two arms"""
    slow: Slow = Slow()
    shape: Shape = Shape()
    paired: Paired | None = None
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
            level=Level(
                policy.alpha, tests=1 + sum(map(bool, more)) + (100 in policy.canary.steps)
            ),
            layout=layout(gates),
            bets=Bets.begin(layout(gates).plan),
            paired=Paired.begin(predictions.max_disagreement) if predictions else None,
        )

    def updated(self, block: Block, live: bool) -> "Trial":
        """One look more; `live`: the candidate answered users, not copies."""
        gates, s, c = self.gates, block.stable, block.candidate
        slow, shape, bets, expected = self.slow, self.shape, self.bets, [math.nan]
        k_s, k_c = min(s.failures, s.requests), min(c.failures, c.requests)
        streams = [[s.requests, k_s, c.requests, k_c]]
        if gates.latency:
            blocks, shares = slow.streams(gates.latency, block)
            streams, expected = streams + blocks, expected + shares
            slow = slow.updated(s)
        if gates.scores:
            streams += shape.streams(block)
            shape = shape.updated(block)
        p_s = np.array(expected + [math.nan] * (len(streams) - len(expected)))
        # A quantile is exceeded by 1 - quantile, an edge of its bucket by fewer or by more: by as
        # much the candidate may differ from what stable exceeds that edge by.
        rest = 1 - gates.latency.quantile if gates.latency else 0.0
        bets = bets.updated(streams, np.where(np.isnan(p_s), 0.0, rest - p_s), p_s)
        if shape.edges != self.shape.edges:
            bets = bets.remember(shape.known(len(streams)))
        return replace(
            self,
            bets=bets,
            slow=slow,
            shape=shape,
            paired=self.paired and self.paired.updated(block.pairs),
            alone=self.alone and self.alone.updated([[0, 0, c.requests, k_c]]),
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
        rate = rate_bound(n_s, k_s, 1 / self.level.harmful / 2) + self.gates.errors.margin
        return replace(self, alone=Bets.begin(alone_plan(rate)) if rate < 1 else None)

    def excess_bound(self) -> float:
        """Upper bound of `p_c - p_s` of failures, at alpha, since `anew`; 1 if none is known."""
        return self.level.least(self.bets, self.layout.places["errors.upper"], 1.0)

    def verdicts(self, shadow: bool) -> tuple[Verdict, ...]:
        """Of all gates that apply."""
        found = [self._errors()]
        if self.gates.latency:
            found.append(self._latency(self.gates.latency))
        if self.gates.scores:
            found.append(self._scores(self.gates.scores.max_shift))
        if self.gates.predictions and self.paired and shadow:
            slices = bool(self.gates.predictions.slices)
            found += self.paired.verdicts(self.level, slices)
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
        estimate = float(k_c / n_c - k_s / n_s) if n_s and n_c else None
        upper = self.excess_bound()
        lower = self.level.greatest(self.bets, places["errors.lower"], -1.0)
        # Half of the test at 100 % went into stable's upper bound.
        alone = self.alone.e[0] / 2 if self.alone else 0.0
        return self.level.verdict(
            "errors",
            f"{k_c:.0f} of {n_c:.0f} failed at the candidate, {k_s:.0f} of {n_s:.0f} at stable; "
            f"{difference_text(*spanning(lower, upper, estimate))} (margin {margin:.2%})",
            e=max(self._harm("errors.harm"), float(alone)),
            proof=self._proofs("errors.upper")[margin],
            n=n_c,
            estimate=estimate,
            lower=lower,
            upper=upper,
            limit=margin,
        )

    def _latency(self, gate: Latency) -> Verdict:
        (theirs, ours), name = self.latency, f"p{gate.quantile * 100:g}"
        e = self._harm("latency.harm")
        c, s = quantile(ours, gate.quantile), quantile(theirs, gate.quantile)
        if not c or not s:
            return self.level.verdict("latency", f"{name}: no latencies yet", e=e, unit="ratio")
        limit, places = latency_limit(gate, s), self.layout.places
        ratios = (limit / s, *RATIOS)
        faster, slower = (self.bets.best[places[f"latency.{way}"]] for way in ("upper", "lower"))
        return self.level.verdict(
            "latency",
            f"{name} {c:.0f} ms{self._band(ours, gate)} at the candidate, {s:.0f} ms"
            f"{self._band(theirs, gate)} at stable (limit {limit:.0f} ms)"
            + too_coarse(ours, self.slow, gate),
            e=e,
            proof=float(faster[0]),
            n=sum(ours.values()),
            estimate=c / s,
            lower=self.level.lower(ratios, slower, 0.0),
            upper=self.level.upper(ratios, faster, None),
            limit=limit / s,
            unit="ratio",
        )

    def _band(self, hist: Histogram, gate: Latency) -> str:
        """A quantile's band at alpha, ms; nothing where it has no upper end yet."""
        off = band(sum(hist.values()), gate.quantile, self.level.alpha)
        low, high = (quantile_bucket(hist, gate.quantile + off * side) for side in (-1, 1))
        return f" ({low[0]:.0f} to {high[1]:.0f})" if low and high else ""

    def _scores(self, most: float) -> Verdict:
        used, e = len(self.shape.edges), self._harm("scores.harm")
        n_s, k_s, n_c, k_c = self.bets.seen[-EDGES:][:used].T
        if not used or not n_s.all() or not n_c.all():
            known, asked = sum(self.shape.early.values()), self.bets.seen[0][0]
            why = "no scores yet" if known or used or not asked else "none came, of any request"
            if known >= KNOWN and not used:
                why = "all of stable's scores are in one bucket"
            return self.level.verdict("scores", why, e=e)
        theirs, ours = k_s / n_s, k_c / n_c
        shift = np.abs(ours - theirs)
        worst = int(shift.argmax())
        # Within a shift is who is proven to be so at every edge, both ways.
        parts = [self.layout.places[f"scores.upper.{part:g}"] for part in SHIFTS]
        proofs = [float(self.bets.best[part][: 2 * used].min()) for part in parts]
        return self.level.verdict(
            "scores",
            f"shifted by {shift[worst]:.3f} at most, at {self.shape.edges[worst]:g} (limit "
            f"{most:g}): {ours[worst]:.1%} up to there at the candidate, {theirs[worst]:.1%} at "
            "stable",
            e=e,
            proof=proofs[SHIFTS.index(1.0)],
            n=float(n_c.max()),
            estimate=float(shift[worst]),
            lower=most if e >= self.level.harmful else 0.0,
            upper=self.level.upper([part * most for part in SHIFTS], proofs, 1.0),
            limit=most,
        )

    def _harm(self, group: str) -> float:
        """The mean of e-values is one, however they hang together."""
        return float(self.bets.e[self.layout.places[group]].mean())

    def _proofs(self, group: str) -> dict[float, float]:
        """d → the e-value against it."""
        place = self.layout.places[group]
        known = zip(self.layout.plan.nulls[place], self.bets.best[place], strict=True)
        return {null.d: float(e) for null, e in known}


def limit_exceeded(gates: Gates, stable: Arm, candidate: Arm) -> str | None:
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
