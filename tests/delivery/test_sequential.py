"""The tests hold at every look: by enumeration, by simulation, and by their arithmetic."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from modelyard.statistics.sequential import Bets, Null, Plan, band, nearest, rate_bound

RATES = np.linspace(0, 1, 41)


def binomial(n: int, p: np.ndarray) -> np.ndarray:
    """P(k | n, p), shape (rates, n + 1)."""
    k = np.arange(n + 1)
    many = np.array([math.comb(n, each) for each in k])
    return many * p[:, None] ** k * (1 - p[:, None]) ** (n - k)


@st.composite
def bets(draw) -> tuple[Bets, Null, int, int]:
    """A test in whatever state blocks before brought it to, and the size of its next block."""
    side, d = draw(st.sampled_from([1, -1])), draw(st.sampled_from([-0.3, -0.01, 0.0, 0.02, 0.4]))
    gaps = tuple(d + side * gap for gap in draw(st.sampled_from([(0.05, 0.5), (0.01,), (0.3,)])))
    null = Null(0, side, d, gaps, late=draw(st.booleans()))
    found = Bets.begin(Plan([null], [draw(st.floats(0, 1))]))
    for _ in range(draw(st.integers(0, 3))):
        n_s, n_c = draw(st.integers(0, 60)), draw(st.integers(0, 60))
        k_s, k_c = draw(st.integers(0, n_s)), draw(st.integers(0, n_c))
        found = found.updated([[n_s, k_s, n_c, k_c]])
    return found, null, draw(st.integers(0, 7)), draw(st.integers(0, 7))


@settings(deadline=None)
@given(bets())
def test_no_point_of_the_null_gains_by_a_block(case: tuple[Bets, Null, int, int]) -> None:
    """The proof that a projection is right: over all outcomes of a block, and all rates that the
    null allows (of a grid with its edges), the wealth is not expected to grow."""
    found, null, n_s, n_c = case
    e = np.array([
        [found.updated([[n_s, k_s, n_c, k_c]]).e[0] for k_c in range(n_c + 1)]
        for k_s in range(n_s + 1)
    ])  # fmt: skip
    expected = binomial(n_s, RATES) @ e @ binomial(n_c, RATES).T
    allowed = null.side * (RATES[None, :] - RATES[:, None] - null.d) <= 1e-12
    assert (expected[allowed] <= found.e[0] * (1 + 1e-9)).all()
    # The point that is nearest to an alternative is not always on the grid: the line itself.
    p = np.linspace(max(0.0, -null.d), min(1.0, 1 - null.d), 101)
    line = np.einsum("is,sc,ic->i", binomial(n_s, p), e, binomial(n_c, p + null.d))
    assert (line <= found.e[0] * (1 + 1e-9)).all()


@settings(deadline=None)
@given(bets(), st.floats(-0.2, 0.2))
def test_a_null_may_move_from_block_to_block(case, more: float) -> None:
    found, null, n_s, n_c = case
    d = null.d + more
    p = np.linspace(max(0.0, -d), min(1.0, 1 - d), 51)
    e = np.array([
        [found.updated([[n_s, k_s, n_c, k_c]], more).e[0] for k_c in range(n_c + 1)]
        for k_s in range(n_s + 1)
    ])  # fmt: skip
    line = np.einsum("is,sc,ic->i", binomial(n_s, p), e, binomial(n_c, p + d))
    assert (line <= found.e[0] * (1 + 1e-9)).all()


@settings(deadline=None)
@given(st.sampled_from([1, -1]), st.floats(0.02, 0.98), st.integers(1, 4), st.data())
def test_one_arm_alone(side: int, d: float, n: int, data) -> None:
    """Also for hits that are shares: each request brings 0, 1/2 or 1."""
    gap = data.draw(st.sampled_from([0.1, 0.5]))
    beyond = d + gap * (1 - d) if side == 1 else d * (1 - gap)
    null = Null(0, side, d, (beyond,), late=data.draw(st.booleans()))
    found = Bets.begin(Plan([null], [0.1], single=True)).updated(
        [[0, 0, 20, data.draw(st.floats(0, 20))]]
    )
    e = {hits: found.updated([[0, 0, n, hits]]).e[0] for hits in np.arange(0, n + 0.5, 0.5)}
    for share in np.linspace(0, 1, 6):
        mean = d * share if side == 1 else d + (1 - d) * share
        halves = data.draw(st.floats(0, 2 * min(mean, 1 - mean)))
        chances = {0.0: 1 - mean - halves / 2, 0.5: halves, 1.0: mean - halves / 2}
        expected = sum(
            math.prod(chances[x] for x in xs) * e[sum(xs)]
            for xs in itertools.product(chances, repeat=n)
        )
        assert expected <= found.e[0] * (1 + 1e-9)


rate = st.floats(1e-5, 1 - 1e-5)
requests = st.integers(1, 10**6)


@settings(deadline=None)
@given(rate, rate, requests, requests, st.floats(-0.999, 0.999))
@example(0.5, 1e-5, 10**6, 1, 0.0)
@example(1e-5, 1 - 1e-5, 1, 10**6, 0.001)
def test_the_nearest_point_is_the_nearest(q_s, q_c, n_s, n_c, d) -> None:
    """The derivative of the divergence changes its sign there."""
    arrays = [np.array([float(x)]) for x in (q_s, q_c, n_s, n_c, d)]
    p = float(nearest(*arrays)[0])
    low, high = max(0.0, -d), min(1.0, 1 - d)
    assume(high - low > 1e-6)
    assert low < p < high

    def slope(p: float) -> float:
        return n_s * (p - q_s) * (p + d) * (1 - p - d) + n_c * (p + d - q_c) * p * (1 - p)

    step = 1e-7 * min(p - low, high - p) + 1e-12
    assert p - step < low + 2e-9 or slope(p - step) <= 0
    assert p + step > high - 2e-9 or slope(p + step) >= 0


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=5))
def test_a_block_without_one_of_the_arms_changes_nothing(sizes: list[tuple[int, int]]) -> None:
    found = Bets.begin(Plan([Null(0, 1, 0.01, (0.1,)), Null(0, -1, 0.01, (0.0,))], [0.01]))
    for n, k in sizes:
        for block in ([n, min(k, n), 0, 0], [0, 0, n, min(k, n)]):
            assert found.updated([block]).e == pytest.approx(found.e)


def simulated(seed: int, many: int, looks: int, plan_null: Null, rates, sizes) -> Bets:
    """`many` releases side by side, a stream each; rates and sizes by look."""
    draw = np.random.default_rng(seed)
    nulls = [
        Null(s, plan_null.side, plan_null.d, plan_null.gaps, plan_null.late) for s in range(many)
    ]
    found = Bets.begin(Plan(nulls, [0.01] * many))
    for look in range(looks):
        (p_s, p_c), (n_s, n_c) = rates(look, draw), sizes(look, draw)
        k_s, k_c = draw.binomial(n_s, p_s, many), draw.binomial(n_c, p_c, many)
        found = found.updated(np.stack([np.full(many, n_s), k_s, np.full(many, n_c), k_c], axis=1))
    return found


def drifting(look: int, draw) -> tuple[float, float]:
    p = 0.02 + 0.015 * math.sin(look / 9)
    return p, p + 0.01


def outage(look: int, draw) -> tuple[float, float]:
    """A broken dependency that hits both arms, on and off."""
    p = 0.6 if look % 40 < 6 else 0.001
    return p, p + 0.01


def ramping(look: int, draw) -> tuple[int, int]:
    """The share of traffic changes; now and then an arm has none."""
    weight = (0.01, 0.05, 0.25, 0.5, 0.0, 1.0)[look // 7 % 6]
    n = int(draw.poisson(100))
    return n - round(n * weight), round(n * weight)


def steady(look: int, draw) -> tuple[int, int]:
    return 90, 10


def level(look: int, draw) -> tuple[float, float]:
    return 0.005, 0.015


@pytest.mark.parametrize("rates", [level, drifting, outage])
@pytest.mark.parametrize("sizes", [steady, ramping])
def test_false_alarms_at_every_look(rates, sizes) -> None:
    """At the edge of the null, 300 looks, 1000 releases: never above alpha = 5 % (it would be
    with a chance below 0.1 %)."""
    null = Null(0, 1, 0.01, (0.03, 0.11, 0.51), late=True)
    found = simulated(3, 1000, 300, null, rates, sizes)
    assert (found.best >= 1 / 0.05).mean() <= 0.05 + 3.1 * math.sqrt(0.05 * 0.95 / 1000)


@pytest.mark.parametrize("rates", [level, drifting, outage])
def test_false_proofs_at_every_look(rates) -> None:
    found = simulated(4, 1000, 300, Null(0, -1, 0.01, (0.0,)), rates, ramping)
    assert (found.best >= 1 / 0.05).mean() <= 0.05 + 3.1 * math.sqrt(0.05 * 0.95 / 1000)


@pytest.mark.parametrize(
    ("excess", "after", "failures"),
    [(0.999, 0, 8), (0.1, 0, 12), (0.02, 0, 80), (0.999, 1000, 15), (0.1, 1000, 20)],
)
def test_faults_are_found_after_few_failures(excess: float, after: int, failures: int) -> None:
    """5 requests a look, 0.1 % of stable's fail: the median of failures until 1/alpha = 400."""
    many, looks, draw = 100, (after + 3500) // 5, np.random.default_rng(5)
    nulls = [Null(s, 1, 0.01, (0.03, 0.11, 0.51), late=True) for s in range(many)]
    found, lost = Bets.begin(Plan(nulls, [0.005] * many)), np.zeros(many)
    for look in range(looks):
        p_c = 0.001 + (excess if look * 5 >= after else 0.0)
        k_s, k_c = draw.binomial(95, 0.001, many), draw.binomial(5, p_c, many)
        lost += np.where(found.best < 400, k_c * (look * 5 >= after), 0)
        found = found.updated(np.stack([np.full(many, 95), k_s, np.full(many, 5), k_c], axis=1))
        if (found.best >= 400).all():
            break
    assert (found.best >= 400).mean() >= 0.5
    assert np.median(lost) <= failures


def test_betting_anew_keeps_only_blame() -> None:
    plan = Plan([Null(0, 1, 0.01, (0.1,), late=True), Null(0, -1, 0.01, (0.0,))], [0.01])
    before = Bets.begin(plan).updated([[500, 0, 500, 2]]).updated([[500, 1, 500, 1]])
    after = before.anew()
    assert after.e[0] == before.e[0] and after.e[1] == 1
    assert (after.seen == 0).all() and (after.memory == before.memory).all()


def test_a_plan_grows_without_changing_what_was_bet() -> None:
    def plan(streams: int) -> Plan:
        return Plan(
            [Null(s, 1, 0.2, (0.4,), late=True) for s in range(streams)],
            [0.1] * streams,
            single=True,
        )

    one = Bets.begin(plan(1)).updated([[0, 0, 30, 12]])
    two = one.grown(plan(2))
    assert list(two.e) == [one.e[0], 1.0]
    both = two.updated([[0, 0, 10, 5], [0, 0, 10, 9]])
    assert both.e[0] == one.updated([[0, 0, 10, 5]]).e[0] and both.e[1] > 10


@settings(deadline=None)
@given(st.integers(0, 400), st.data())
def test_the_bound_of_a_rate_is_above_the_exact_one(n: int, data) -> None:
    """Clopper and Pearson's holds at one look, this one at all."""
    k = data.draw(st.integers(0, n))
    bound = rate_bound(n, k, 0.01)
    below = sum(math.comb(n, i) * bound**i * (1 - bound) ** (n - i) for i in range(k + 1))
    assert below <= 0.01 + 1e-9 or k == n
    assert k / max(n, 1) <= bound <= 1


@pytest.mark.parametrize("q", [0.5, 0.95])
def test_quantile_bands_hold_at_every_look(q: float) -> None:
    """Uniform draws: the q quantile is q. Missed at any of 2000 looks by no more than alpha."""
    draw, alpha, missed = np.random.default_rng(6), 0.1, 0
    n = np.arange(1, 2001)
    off = np.array([band(float(each), q, alpha) for each in n])
    for _ in range(300):
        below = np.cumsum(draw.random(2000) < q) / n
        missed += bool((np.abs(below - q) > off).any())
    assert missed / 300 <= alpha


MANY = 10**9


@pytest.mark.parametrize(
    "block",
    [
        [MANY, 0, MANY, MANY],
        [MANY, MANY, MANY, 0],
        [MANY, 0, 1, 1],
        [1, 0, MANY, MANY],
        [MANY, MANY, MANY, MANY],
        [MANY, 0, MANY, 0],
    ],
)
@pytest.mark.parametrize("single", [False, True])
def test_extreme_counts_neither_overflow_nor_end_as_no_number(block, single: bool) -> None:
    sides = [Null(0, 1, 0.01, (0.03, 0.51), late=True), Null(0, -1, 0.0001 + 0.5 * single, (0.0,))]
    found = Bets.begin(Plan(sides, [0.005], single=single))
    with np.errstate(over="raise", divide="raise", invalid="raise"):
        for _ in range(20):
            found = found.updated([block])
        quiet = found.updated([[0, 0, 0, 0]])
    assert np.isfinite(found.e).all() and (found.best <= 1e101).all()
    assert quiet.e == pytest.approx(found.e), "no requests tell nothing"
