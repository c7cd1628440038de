"""The gates: what passes, what fails, and how often they are wrong."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.delivery.gates import (
    judge_errors,
    judge_latency,
    judge_predictions,
    quantile,
    surprise_above,
    upper_bound,
)
from modelyard.delivery.policy import Errors, Latency, Predictions
from modelyard.delivery.ports import Arm, Pairs

ALPHA = 1e-4
GOOD = Arm(requests=400, failures=0)


@pytest.mark.parametrize(
    ("candidate", "outcome"),
    [
        (Arm(), "wait"),
        (Arm(requests=30), "pass"),
        (Arm(requests=10, failures=10), "fail"),
        (Arm(requests=30, failures=1), "wait"),
        (Arm(requests=1000, failures=5), "pass"),
        (Arm(requests=2000, failures=200), "fail"),
    ],
)
def test_errors(candidate: Arm, outcome: str) -> None:
    assert judge_errors(Errors(), GOOD, GOOD, candidate, ALPHA).outcome == outcome


def test_a_fault_that_hits_both_arms_does_not_blame_the_candidate() -> None:
    broken = Arm(requests=50, failures=25)
    candidate = Arm(requests=50, failures=27)
    assert judge_errors(Errors(), broken, GOOD, candidate, ALPHA).outcome == "wait"


@given(st.integers(1, 400), st.floats(0.001, 0.999), st.data())
def test_the_bounds_are_no_smaller_than_the_exact_ones(n: int, p: float, data) -> None:
    hits = data.draw(st.integers(0, n))
    exact = sum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(hits, n + 1))
    assert surprise_above(hits, n, p) >= exact * (1 - 1e-9)
    assert upper_bound(hits, n, ALPHA) >= hits / n


def test_false_alarms_are_rarer_than_alpha() -> None:
    draw, alarms, alpha = random.Random(7), 0, 0.05
    for _ in range(1500):
        stable = sum(draw.random() < 0.05 for _ in range(300))
        candidate = sum(draw.random() < 0.05 for _ in range(100))
        arms = Arm(requests=300, failures=stable), Arm(requests=100, failures=candidate)
        alarms += judge_errors(Errors(), arms[0], *arms, alpha).outcome == "fail"
    assert alarms <= 1500 * alpha


def histogram(milliseconds: float, n: int) -> dict[float, int]:
    return {milliseconds / 1.1: 0, milliseconds: n}


@pytest.mark.parametrize(
    ("candidate", "outcome"),
    [
        ({}, "wait"),
        (histogram(21, 50), "pass"),
        (histogram(100, 50), "fail"),
        ({**histogram(21, 8), **histogram(100, 2)}, "wait"),
        ({**histogram(21, 900), **histogram(100, 100)}, "fail"),
        ({**histogram(21, 970), **histogram(100, 30)}, "pass"),
        ({1000.0: 0, math.inf: 50}, "fail"),
    ],
)
def test_latency(candidate: dict[float, int], outcome: str) -> None:
    stable = Arm(requests=400, latency=histogram(20, 400))
    judged = judge_latency(Latency(), stable, Arm(requests=50, latency=candidate), ALPHA)
    assert judged.outcome == outcome


def test_quantiles() -> None:
    assert quantile({}, 0.5) is None
    assert quantile({10.0: 0, 20.0: 100}, 0.5) == 15
    assert quantile({10.0: 90, 20.0: 10}, 0.95) == 15


@pytest.mark.parametrize(
    ("disagreements", "outcome"), [(0, "pass"), (40, "pass"), (50, "wait"), (120, "fail")]
)
def test_predictions(disagreements: int, outcome: str) -> None:
    pairs = Pairs(rows=200, disagreements=disagreements)
    assert judge_predictions(Predictions(), pairs, ALPHA).outcome == outcome
