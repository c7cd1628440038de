"""Whole releases: the real command, Envoy, two BentoML servers, replayed traffic."""

import pytest
from conftest import Repo

pytestmark = pytest.mark.xdist_group("delivery")


def test_a_good_candidate_is_promoted(serving: Repo) -> None:
    code, result = serving.release(2)
    assert (code, result["decision"]) == (0, "promoted")
    assert result["failed_requests"] == 0 and result["stable_downtime_s"] == 0
    assert serving.answers() == 2
    weights = [e.weight for e in serving.events()]
    assert weights == sorted(weights) and {0, 20, 50, 100} == set(weights)
