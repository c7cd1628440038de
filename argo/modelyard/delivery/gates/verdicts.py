"""What a gate says, in figures and in words."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from modelyard.statistics.sequential import Bets

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
    proof: float | None = None
    """evidence that it is within, an e-value; proven at 1 / alpha. None: a slice, no figures yet"""
    more: int | None = None
    """about how many more requests of the candidate would decide; None: not known"""

    @property
    def of_slice(self) -> bool:
        """Only harm is looked for: it need not pass."""
        return self.gate.startswith("predictions ")


@dataclass(frozen=True)
class Level:
    """What e-values are held against."""

    alpha: float
    tests: int
    """that share alpha: each may raise a false alarm with a chance of alpha / tests"""

    @property
    def proven(self) -> float:
        """Not split among the tests: all have to be proven."""
        return 1 / self.alpha

    @property
    def harmful(self) -> float:
        return self.tests / self.alpha

    def upper(self, values: Sequence[float], es: Iterable[float], default: Any) -> Any:
        """The least value that is refuted by its e-value, as all above it are."""
        found = default
        for value, e in sorted(zip(values, es, strict=True), reverse=True):
            if e < self.proven:
                break
            found = value
        return found

    def lower(self, values: Sequence[float], es: Iterable[float], default: Any) -> Any:
        """The greatest value that is refuted by its e-value, as all below it are."""
        opposite = self.upper([-value for value in values], es, None)
        return default if opposite is None else -opposite

    def least(self, bets: Bets, nulls: slice, default: float) -> float:
        """The upper bound by some nulls `>= d`."""
        return self.upper([null.d for null in bets.plan.nulls[nulls]], bets.best[nulls], default)

    def greatest(self, bets: Bets, nulls: slice, default: float) -> float:
        """The lower bound by some nulls `<= d`."""
        return self.lower([null.d for null in bets.plan.nulls[nulls]], bets.best[nulls], default)

    def verdict(
        self,
        gate: str,
        text: str,
        e: float,
        proof: float = 1.0,
        n: float = 0.0,
        threshold: float | None = None,
        **figures: Any,
    ) -> Verdict:
        """Args:
        e, proof: e-values that the candidate is beyond its limit, within it.
        n: requests of the candidate that they are of.
        threshold: of `e`, where it is not that of all.
        figures: others of the verdict.
        """
        threshold = threshold or self.harmful
        outcome: Outcome = "wait"
        if e >= threshold:
            outcome = "fail"
        elif proof >= self.proven:
            outcome = "pass"
        ways = [(proof, self.proven), (e, threshold)]
        values = {"e": e, "threshold": threshold, "proof": proof, **figures}
        rounded = {name: _rounded(value) for name, value in values.items()}
        more = 0 if outcome != "wait" else _more(ways, n)
        return Verdict(gate, outcome, text, more=more, **rounded)


def _rounded(value: Any) -> Any:
    """Six digits: a record is read by people, too."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _more(ways: list[tuple[float, float]], n: float) -> int | None:
    """Requests until the first e-value is what it has to be, at the pace so far; None where none
    gains."""
    paces = [n * (math.log(wanted) / math.log(now) - 1) for now, wanted in ways if now > 1.05]
    return math.ceil(min(paces)) if paces else None


def spanning(lower: float, upper: float, seen: float | None) -> tuple[float, float]:
    """Bounds with what is seen between them: one that was proven is kept, so a candidate that
    changes may be seen beyond it later, or have two bounds that contradict each other."""
    return (lower, upper) if seen is None else (min(lower, seen), max(upper, seen))


def difference_text(lower: float, upper: float) -> str:
    """The bounds of a difference, or what little is known of it."""
    if upper >= 1 and lower <= -1:
        return "difference not known yet"
    if lower <= -1 or upper >= 1:
        return (
            f"difference at least {lower:+.2%}"
            if upper >= 1
            else f"difference at most {upper:+.2%}"
        )
    return f"difference {lower:+.2%} to {upper:+.2%}"
