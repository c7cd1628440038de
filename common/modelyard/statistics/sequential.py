"""Sequential tests of two rates, valid however often one looks and whenever one stops.

The data come in *blocks*: what one look added, `n_s` requests at stable of which `k_s` hit
(failed, were slow …), `n_c` at the candidate of which `k_c` hit. The null says how far apart
the two hit rates may be: `p_c - p_s <= d` (or `>= d`). The rates themselves are unknown and may
be others in every block, and so may the shares of traffic; requests are independent given
their rates.

A block's *e-variable* is the likelihood ratio of an alternative, chosen from earlier blocks
only, to the point of the null that is nearest to it in Kullback-Leibler divergence, each arm
weighted with its requests. Its mean is at most 1 under every point of the null (Turner, Ly and
Gruenwald, arXiv:2106.02693, theorem 1; Turner and Gruenwald, arXiv:2203.09785, for nulls with a
difference). So the product over blocks is an *e-process*: under the null it ever reaches
1/alpha with a chance of at most alpha (Ville). Averages of e-processes are e-processes, too:
that is how several alternatives are tried, and how betting may begin at any block (compare
Shin, Ramdas and Rinaldo, arXiv:2203.03532), so that a fault that comes late is not
weighed against all that went well before it.

Confidence bounds are the differences that are not rejected, on a grid.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

MEMORY = 2000.0
"""requests of an arm over which its rate is averaged to choose alternatives"""
LATE = 20.0
"""requests of the candidate: bets that begin at the one after N of them have a weight of
0.5 / ((N + LATE) (1 + log(1 + N / LATE))^2), all together of 0.5"""
_LEAST = 1e-5
"""alternatives stay this far inside of (0, 1)"""
_TINY = 1e-9
_MOST = 1e100
"""wealth is capped, which is always allowed and keeps numbers finite"""


def nearest(q_s: Floats, q_c: Floats, n_s: Floats, n_c: Floats, d: Floats) -> Floats:
    """Stable's rate at the point of the line `p_c = p_s + d` that is nearest to (q_s, q_c).

    Nearest in `n_s KL(q_s, p_s) + n_c KL(q_c, p_c)`. Where its derivative is 0, p_s is the middle
    one of the three real roots of a cubic (Viete's form), polished by two steps of Newton's.

    Args:
        q_s, q_c: hit rates of the alternative, inside of (0, 1).
        n_s, n_c: requests of each arm, not both 0.
        d: difference of the rates on the line.
    """
    w = n_s / (n_s + n_c)
    c = q_c - d
    e, f = d * (1 - d), 1 - 2 * d
    a2 = (w - 1) * (1 + c) - w * (f + q_s)
    a1 = w * (q_s * f - e) + (1 - w) * c
    shift = a2 / 3
    m = np.sqrt(np.maximum(shift * shift - a1 / 3, _TINY**2))
    half = (2 * shift**3 - shift * a1 + w * q_s * e) / 2
    angle = np.arccos(np.clip(-half / m**3, -1, 1)) / 3
    p = 2 * m * np.cos(angle - 2 * np.pi / 3) - shift
    low, high = np.maximum(0, -d) + _TINY, np.minimum(1, 1 - d) - _TINY
    for _ in range(2):
        p = np.clip(p, low, high)
        v_s, v_c = p * (1 - p), (p + d) * (1 - p - d)
        slope = w * v_c + (1 - w) * v_s + w * (p - q_s) * (1 - 2 * (p + d))
        slope = slope + (1 - w) * (p - c) * (1 - 2 * p)
        step = (w * (p - q_s) * v_c + (1 - w) * (p - c) * v_s) / slope
        p = np.where(np.isfinite(step), p - step, p)
    return np.clip(p, low, high)


@dataclass(frozen=True)
class Null:
    """What a test tries to refute, and how it bets against it."""

    stream: int
    """of blocks, by its place in the array that `Bets.updated` takes"""
    side: int
    """1: `p_c - p_s <= d`; -1: `p_c - p_s >= d`"""
    d: float
    gaps: tuple[float, ...]
    """differences `p_c - p_s` beyond d that are bet on, the least first; the rates seen so far are
    always bet on, too"""
    late: bool = False
    """betting may begin at any block: for faults; such a bet is never begun `anew`"""


class Plan:
    """The bets of some nulls, as columns of one row a bet; the same for the life of a test.

    Args:
        nulls: on streams 0, 1 … without gaps.
        priors: of each stream, stable's hit rate before anything was seen.
        weights: requests that each prior is worth.
        single: there is one arm only, `k_c` of `n_c`, and the null is about its rate. The hits
            may then be a sum of any values in [0, 1]: the likelihood ratio is convex in them.
    """

    def __init__(
        self,
        nulls: Sequence[Null],
        priors: Sequence[float],
        weights: Sequence[float] | None = None,
        single: bool = False,
    ) -> None:
        bets = [(n, gap) for n, null in enumerate(nulls) for gap in (None, *null.gaps)]
        self.nulls = tuple(nulls)
        self.single = single
        self.row = np.array([nulls[n].stream for n, _ in bets])
        self.of = np.array([n for n, _ in bets])
        self.first = np.flatnonzero(np.diff(self.of, prepend=-1))
        self.d = np.array([nulls[n].d for n, _ in bets])
        self.side = np.array([float(nulls[n].side) for n, _ in bets])
        # The rates seen are bet on where they are beyond d by a fifth of the least gap.
        self.plug = np.array([gap is None for _, gap in bets])
        self.gap = np.array(
            [0.8 * nulls[n].d + 0.2 * nulls[n].gaps[0] if gap is None else gap for n, gap in bets]
        )
        self.late = np.array([nulls[n].late for n, _ in bets])
        self.share = 1 / np.bincount(self.of)[self.of]
        self.prior = np.array(priors, dtype=float)
        self.prior_n = np.full(len(priors), 10.0) if weights is None else np.array(weights)
        self.null_stream = np.array([null.stream for null in nulls])
        self.null_late = np.array([null.late for null in nulls])


@dataclass(frozen=True, eq=False)
class Bets:
    """Tests of a plan's nulls after some blocks. Immutable: `updated` gives the next.

    All arrays are of requests, hits, or e-values; shapes: (bets,), (streams, 4), (nulls,).
    """

    plan: Plan
    wealth: Floats
    memory: Floats
    """per stream n_s, k_s, n_c, k_c, older blocks counting less and less"""
    exposure: Floats
    """per stream n_c of all blocks"""
    seen: Floats
    """per stream n_s, k_s, n_c, k_c of all blocks since `anew`"""
    best: Floats
    """per null the largest e-value so far (since `anew`, unless the null is `late`)"""

    @classmethod
    def begin(cls, plan: Plan) -> Self:
        streams = len(plan.prior)
        return cls(
            plan,
            wealth=np.where(plan.late, 0.5, 1.0) * plan.share,
            memory=np.zeros((streams, 4)),
            exposure=np.zeros(streams),
            seen=np.zeros((streams, 4)),
            best=np.ones(len(plan.nulls)),
        )

    def anew(self) -> "Bets":
        """Forget the evidence of all nulls but the late ones, not what the rates seem to be."""
        plan = self.plan
        return Bets(
            plan,
            wealth=np.where(plan.late, self.wealth, plan.share),
            memory=self.memory,
            exposure=self.exposure,
            seen=np.zeros_like(self.seen),
            best=np.where(plan.null_late, self.best, 1.0),
        )

    def remember(self, blocks: ArrayLike) -> "Bets":
        """Learn the rates from blocks that nothing is bet on."""
        return replace(self, memory=self.memory + np.asarray(blocks, dtype=float))

    def grown(self, plan: Plan) -> "Bets":
        """With the streams and nulls that `plan` has beyond those of this plan."""
        fresh = Bets.begin(plan)

        def joined(name: str) -> Floats:
            old, new = getattr(self, name), getattr(fresh, name)
            return np.concatenate([old, new[len(old) :]])

        return Bets(plan, *map(joined, ("wealth", "memory", "exposure", "seen", "best")))

    def updated(self, blocks: ArrayLike, more: ArrayLike = 0.0, p_s: ArrayLike = np.nan) -> "Bets":
        """After one more block of each stream.

        Args:
            blocks: (streams, 4): n_s, k_s, n_c, k_c; not negative, hits not above requests.
            more: (streams,): what the nulls' d is larger by in this block.
            p_s: (streams,): what stable's rate is expected to be, where more is known than this
                stream tells, else not a number. As `more`, it may depend on earlier blocks.
        """
        plan, block = self.plan, np.asarray(blocks, dtype=float)
        exposure = self.exposure + block[:, 2]
        cash, left = _cash(self.exposure), _cash(exposure)
        begun = np.where(plan.late, (cash - left)[plan.row], 0.0) * plan.share
        wealth = (self.wealth + begun) * self._e_variables(
            block, *np.broadcast_arrays(more, p_s, self.exposure)[:2]
        )
        wealth = np.minimum(wealth, _MOST)
        e = np.add.reduceat(wealth, plan.first) + np.where(
            plan.null_late, left[plan.null_stream], 0.0
        )
        fade = np.exp(block[:, [0, 0, 2, 2]] / -MEMORY)
        return Bets(
            plan,
            wealth=wealth,
            memory=self.memory * fade + block,
            exposure=exposure,
            seen=self.seen + block,
            best=np.maximum(self.best, e),
        )

    @cached_property
    def e(self) -> Floats:
        """The e-value of each null now."""
        plan = self.plan
        cash = np.where(plan.null_late, _cash(self.exposure)[plan.null_stream], 0.0)
        return np.add.reduceat(self.wealth, plan.first) + cash

    def stable_rates(self) -> Floats:
        """What p_s of each stream seems to be by now."""
        n_s, k_s = self.memory[:, 0], self.memory[:, 1]
        return (k_s + self.plan.prior * self.plan.prior_n) / (n_s + self.plan.prior_n)

    def _e_variables(self, block: Floats, more: Floats, p_s: Floats) -> Floats:
        """Of each bet for one block, given what was known before it."""
        plan, memory = self.plan, self.memory
        p_s = np.where(np.isnan(p_s), self.stable_rates(), p_s)
        # With few requests of its own, the candidate is taken to be at the edge of the null.
        few = plan.prior_n / (memory[:, 2] + plan.prior_n)
        p_c = few * (p_s + more) + (1 - few) * memory[:, 3] / np.maximum(memory[:, 2], _TINY)
        more = more[plan.row]
        d = plan.d + more
        n_s, k_s, n_c, k_c = block[plan.row].T
        q_s = np.zeros_like(plan.d) if plan.single else np.clip(p_s[plan.row], _LEAST, 1 - _LEAST)
        q_c = q_s + plan.gap + more
        seen = plan.side * np.maximum(plan.side * p_c[plan.row], plan.side * q_c)
        q_c = np.clip(np.where(plan.plug, seen, q_c), _LEAST, 1 - _LEAST)
        beyond = plan.side * (q_c - q_s - d) > _TINY
        if plan.single:
            log_e = _log_ratio(n_c, k_c, q_c, d)
        else:
            # Without requests at stable, the null holds whatever the candidate does.
            beyond &= (n_s > 0) & (n_c > 0)
            p = nearest(q_s, q_c, np.maximum(n_s, 1), np.maximum(n_c, 1), d)
            log_e = _log_ratio(n_s, k_s, q_s, p) + _log_ratio(n_c, k_c, q_c, p + d)
        return np.where(beyond, np.exp(np.minimum(log_e, 400.0)), 1.0)


def _log_ratio(n: Floats, k: Floats, q: Floats, p: Floats) -> Floats:
    """Log-likelihood ratio of k hits of n at rate q against rate p."""
    return k * np.log(q / p) + (n - k) * np.log((1 - q) / (1 - p))


def _cash(exposure: Floats) -> Floats:
    """What is not yet bet, of a wealth of 1, after so many requests of the candidate."""
    return 0.5 / (1 + np.log1p(exposure / LATE))


def rate_bound(n: float, k: float, alpha: float) -> float:
    """The largest hit rate that k hits of n leave possible at alpha, whenever one asks.

    By bisection over the beta-binomial mixture martingale with a uniform prior (Howard, Ramdas,
    McAuliffe and Sekhon, arXiv:1810.08240; Robbins 1970).
    """
    mixture = math.lgamma(k + 1) + math.lgamma(n - k + 1) - math.lgamma(n + 2)
    low, high = (k / n if n else 1.0), 1.0
    for _ in range(50):
        p = (low + high) / 2
        log_e = mixture - k * math.log(p) - (n - k) * math.log1p(-p) if p < 1 else math.inf
        low, high = (p, high) if log_e < -math.log(alpha) else (low, p)
    return high


def band(n: float, p: float, alpha: float) -> float:
    """How far, in rank, the p quantile of n draws may be from the true one, whenever one asks.

    With a chance of 1 - alpha the true quantile is between the empirical ones of p -+ this, for all
    n >= 1 at once (Howard and Ramdas, arXiv:1906.09712, theorem 1).
    """
    spread = (1.4 * math.log(max(math.log(2.1 * n), _TINY)) + math.log(10 / alpha)) / n
    return 1.5 * math.sqrt(p * (1 - p) * spread) + 0.8 * spread
