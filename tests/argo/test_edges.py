"""What the histograms of Envoy and of the servers can prove, from simulated requests."""

import math

import numpy as np
import pytest

from modelyard.delivery.evidence.counts import Arm
from modelyard.delivery.gates.trial import Block, Trial
from modelyard.delivery.policy import Policy
from modelyard.serving.observability import buckets

ENVOY = [0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000]
SERVERS = [1000 * edge for edge in buckets.DURATION_S]
MEDIANS_MS = (4, 14, 30, 60, 120)


def proven(edges: list[float], ratio: float, median_ms: float) -> bool:
    """Whether two versions of the same latency are, within 60 looks of 1,000 requests each."""
    upper, source = [*map(float, edges), math.inf], np.random.default_rng(0)

    def arm() -> Arm:
        ms = median_ms * np.exp(source.normal(0, 0.4, 1000))
        counts = np.bincount(np.searchsorted(upper, ms), minlength=len(upper))
        return Arm(requests=1000, latency=dict(zip(upper, counts.tolist(), strict=True)))

    gate = {"quantile": 0.95, "ratio": ratio, "slack": "1ms"}
    gates = {"errors": {"margin": 0.02}, "latency": gate, "predictions": None}
    trial = Trial.begin(Policy.model_validate({"gates": gates}))
    for _ in range(60):
        trial = trial.updated(Block(stable=arm(), candidate=arm()), True)
    verdict = next(v for v in trial.verdicts(False) if v.gate == "latency")
    if verdict.outcome == "wait":
        assert "hard to prove: the histogram has no edge between" in verdict.text
    return verdict.outcome == "pass"


@pytest.mark.parametrize(
    ("edges", "shares"),
    [
        (ENVOY, {1.2: 0, 1.3: 0, 1.5: 0, 2.5: 1}),
        (SERVERS, {1.2: 1, 1.3: 1, 1.5: 1, 2.5: 1}),
    ],
    ids=["envoy", "servers"],
)
def test_what_edges_can_prove(edges: list[float], shares: dict[float, float]) -> None:
    for ratio, share in shares.items():
        found = [proven(edges, ratio, median) for median in MEDIANS_MS]
        assert np.mean(found) == share, (ratio, found)
