"""What the counts say about a candidate: does it pass, does it fail, or is it too early?

Every test is one-sided and errs on the side of "too early". The bounds are Chernoff's
for a binomial count in its Kullback-Leibler form (Garivier & Cappe, arXiv:1102.2490):
closed, valid at every sample size, and exact where none or all of the requests fail.
"""

import math
from dataclasses import dataclass
from typing import Literal

from modelyard.delivery.policy import Errors, Latency, Predictions
from modelyard.delivery.ports import Arm, Pairs

_SAME = 0.05
"""level at which stable at the same time must be ruled out as the failures' explanation"""

Outcome = Literal["pass", "fail", "wait"]


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
    """the confidence bounds of what is estimated; None: none yet"""
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


def divergence(share: float, p: float) -> float:
    """Kullback-Leibler divergence of two Bernoulli distributions, in nats."""
    if share == p:
        return 0.0
    if p <= 0 or p >= 1:
        return math.inf
    head = share * math.log(share / p) if share > 0 else 0.0
    tail = (1 - share) * math.log((1 - share) / (1 - p)) if share < 1 else 0.0
    return max(0.0, head + tail)


def surprise_above(hits: int, n: int, p: float) -> float:
    """Bound of the chance of at least `hits` of `n` if each hits with `p` or less."""
    return 1.0 if n == 0 or hits <= n * p else math.exp(-n * divergence(hits / n, p))


def surprise_below(hits: int, n: int, p: float) -> float:
    """Bound of the chance of at most `hits` of `n` if each hits with `p` or more."""
    return surprise_above(n - hits, n, 1 - p)


def upper_bound(hits: int, n: int, alpha: float) -> float:
    """The largest rate that `hits` of `n` leave possible at level `alpha`, by bisection."""
    low, high = (hits / n if n else 1.0), 1.0
    for _ in range(50):
        middle = (low + high) / 2
        if surprise_below(hits, n, middle) > alpha:
            low = middle
        else:
            high = middle
    return high


def judge_errors(gate: Errors, stable: Arm, earlier: Arm, candidate: Arm, alpha: float) -> Verdict:
    """Does the candidate fail more often than stable by more than the margin?

    `earlier` is stable over the whole release: many requests, so that few failures of the
    candidate are enough. Its rate is taken at its upper bound, then the candidate's
    failures are tested against that rate plus the margin; each half has half of `alpha`.
    `stable` is stable at the candidate's own time: where something hits both, such as a
    broken dependency, the candidate must be clearly worse than that, too.
    """
    text = (
        f"{_of(candidate)} failed at the candidate, {_of(stable)} at stable "
        f"(margin {gate.margin:.1%})"
    )
    if not candidate.requests or not stable.requests:
        return Verdict("errors", "wait", text)
    if _fails_more(gate, earlier, candidate, alpha) and _fails_more(gate, stable, candidate, _SAME):
        return Verdict("errors", "fail", text)
    excess = candidate.failures / candidate.requests - stable.failures / stable.requests
    return Verdict("errors", "pass" if excess <= gate.margin else "wait", text)


def _fails_more(gate: Errors, stable: Arm, candidate: Arm, alpha: float) -> bool:
    limit = upper_bound(stable.failures, stable.requests, alpha / 2) + gate.margin
    surprise = surprise_above(candidate.failures, candidate.requests, limit)
    return limit < 1 and surprise <= alpha / 2


def judge_latency(gate: Latency, stable: Arm, candidate: Arm, alpha: float) -> Verdict:
    """Is a quantile of the candidate's latency above the limit that stable's sets?

    A quantile is bounded by counting the requests above an edge of the histogram (the
    order-statistic interval); each arm has half of `alpha`. Where an edge is not sharp
    the doubt goes to the candidate's favour.
    """
    name, rest = f"p{gate.quantile * 100:g}", 1 - gate.quantile
    ours, theirs = (
        quantile(candidate.latency, gate.quantile),
        quantile(stable.latency, gate.quantile),
    )
    if ours is None or theirs is None:
        return Verdict("latency", "wait", f"{name}: no latencies yet")
    text = f"{name} {ours:.0f} ms at the candidate, {theirs:.0f} ms at stable"
    n = sum(stable.latency.values())
    highest = next(
        edge
        for edge in [*sorted(stable.latency), math.inf]
        if surprise_below(_above(stable.latency, edge), n, rest) <= alpha / 2 or edge == math.inf
    )
    slow = _surely_above(candidate.latency, _limit(gate, highest))
    if surprise_above(slow, sum(candidate.latency.values()), rest) <= alpha / 2:
        return Verdict("latency", "fail", f"{text} (limit {_limit(gate, theirs):.0f} ms)")
    outcome: Outcome = "pass" if ours <= _limit(gate, theirs) else "wait"
    return Verdict("latency", outcome, f"{text} (limit {_limit(gate, theirs):.0f} ms)")


def judge_predictions(gate: Predictions, pairs: Pairs, alpha: float) -> Verdict:
    """Do more of the paired predictions disagree than the policy allows?"""
    text = (
        f"{pairs.disagreements} of {pairs.rows} paired predictions disagree "
        f"(at most {gate.max_disagreement:.0%})"
    )
    if not pairs.rows:
        return Verdict("predictions", "wait", text)
    if surprise_above(pairs.disagreements, pairs.rows, gate.max_disagreement) <= alpha:
        return Verdict("predictions", "fail", text)
    share = pairs.disagreements / pairs.rows
    return Verdict("predictions", "pass" if share <= gate.max_disagreement else "wait", text)


def quantile(latency: dict[float, int], q: float) -> float | None:
    """The `q` quantile of a histogram, ms, linear inside a bucket; None if it is empty."""
    total, seen, low = sum(latency.values()), 0, 0.0
    for edge in sorted(latency):
        if (count := latency[edge]) and seen + count >= q * total:
            return low if math.isinf(edge) else low + (edge - low) * (q * total - seen) / count
        seen += count
        low = edge
    return None


def _limit(gate: Latency, stable_ms: float) -> float:
    return max(stable_ms * gate.ratio, stable_ms + gate.slack * 1000)


def _above(latency: dict[float, int], edge: float) -> int:
    return sum(count for upper, count in latency.items() if upper > edge)


def _surely_above(latency: dict[float, int], limit: float) -> int:
    """Requests in buckets that begin at or above `limit`."""
    edges = sorted(latency)
    return sum(
        latency[upper] for lower, upper in zip(edges, edges[1:], strict=False) if lower >= limit
    )


def _of(arm: Arm) -> str:
    return f"{arm.failures} of {arm.requests}"
