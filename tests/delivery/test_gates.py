"""The gates: what is proven, what fails, what waits, and what they say of it."""

import io
import math
import re

import pytest
from rich.console import Console

from modelyard.delivery.evidence.counts import Arm, Counts, Pairs, Slice
from modelyard.delivery.evidence.differences import Block, difference
from modelyard.delivery.gates.trial import Trial, Verdict, limit_exceeded
from modelyard.delivery.policy import Policy
from modelyard.delivery.reporting.format import bounds
from modelyard.delivery.reporting.terminal import gates
from modelyard.statistics.histograms import quantile

NONE = Arm()


def trial(gates: dict, *blocks: Block, live: bool = True, policy: dict | None = None) -> Trial:
    found = Trial.begin(Policy.model_validate({"gates": gates, **(policy or {})}))
    if live:
        found = found.go_live()
    for block in blocks:
        found = found.updated(block, live)
    return found


def verdict(found: Trial, gate: str, shadow: bool = False) -> Verdict:
    return next(v for v in found.verdicts(shadow) if v.gate == gate)


ERRORS = {"latency": None, "predictions": None}


@pytest.mark.parametrize(
    ("stable", "candidate", "outcome"),
    [
        ((0, 0), (0, 0), "wait"),
        ((0, 400), (0, 30), "wait"),
        ((0, 1000), (0, 1000), "pass"),
        ((0, 400), (10, 10), "fail"),
        ((0, 400), (1, 30), "wait"),
        ((9, 9000), (1, 1000), "pass"),
        ((0, 400), (200, 2000), "fail"),
        ((40, 2000), (60, 2000), "wait"),
        # without anything to compare with there is neither proof nor blame
        ((0, 0), (50, 100), "wait"),
        ((0, 1000), (0, 0), "wait"),
    ],
)
def test_errors(stable: tuple[int, int], candidate: tuple[int, int], outcome: str) -> None:
    arms = [Arm(requests=n, failures=k) for k, n in (stable, candidate)]
    found = verdict(trial(ERRORS, Block(arms[0], arms[1])), "errors")
    assert found.outcome == outcome
    assert f"{candidate[0]} of {candidate[1]} failed at the candidate" in found.text
    assert found.limit == 0.01 and found.lower is not None and found.upper is not None
    assert (found.upper <= 0.01) == (outcome == "pass")
    assert found.lower <= found.upper


def test_bounds_never_contradict_each_other() -> None:
    """Whatever was proven while the candidate was another: first good, then broken; and back."""
    well, broken = ((Block(Arm(requests=400), Arm(requests=400, failures=k))) for k in (0, 160))
    contradicted = False
    for blocks in ([well] * 5 + [broken] * 5, [broken] * 5 + [well] * 40):
        found = trial(ERRORS)
        for block in blocks:
            found = found.updated(block, live=True)
            said = verdict(found, "errors")
            assert said.lower is not None and said.upper is not None
            contradicted |= said.lower > said.upper
            shown = re.search(r"difference (\S+)% to (\S+)%", said.text)
            assert shown is None or float(shown[1]) <= float(shown[2]), said
            low, high = bounds(said)
            assert low is None or high is None or low <= high
            console = Console(file=io.StringIO(), width=160)
            with console.capture() as picture:
                console.print(gates([said], console, 160))
            assert not re.search("●.*├|┤.*●", picture.get()), "seen is between them"
    assert contradicted, "as they were proven, they do"


def test_a_fault_that_hits_both_arms_does_not_blame_the_candidate() -> None:
    well = Block(Arm(requests=950, failures=0), Arm(requests=50, failures=0))
    broken = Block(Arm(requests=950, failures=480), Arm(requests=50, failures=27))
    assert verdict(trial(ERRORS, well, well, broken, broken), "errors").outcome == "wait"


def test_at_full_weight_stable_of_before_is_the_measure() -> None:
    before = Block(Arm(requests=1000, failures=2), Arm(requests=1000, failures=2))
    policy = {"canary": {"steps": [50, 100]}}
    full = trial(ERRORS, before, before, policy=policy).at_full()
    same, worse = Arm(requests=1000, failures=3), Arm(requests=1000, failures=80)
    assert verdict(full.updated(Block(NONE, same), True), "errors").outcome == "pass"
    assert verdict(full.updated(Block(NONE, worse), True), "errors").outcome == "fail"


def test_proof_begins_anew_with_live_traffic_and_blame_does_not() -> None:
    good = Block(Arm(requests=1000), Arm(requests=1000))
    shadow = trial(ERRORS, good, good, live=False)
    assert verdict(shadow, "errors").outcome == "pass"
    live = shadow.go_live()
    assert verdict(live, "errors").outcome == "wait" and live.excess_bound() == 1
    assert live.shadow_bound == shadow.excess_bound() < 0.01
    bad = Block(Arm(requests=100), Arm(requests=100, failures=90))
    assert verdict(trial(ERRORS, bad, live=False).go_live(), "errors").outcome == "fail"


def test_excess_failures_are_counted_against_stable_of_the_same_time() -> None:
    mirrored = Block(Arm(requests=100), Arm(requests=100, failures=3))
    live = [
        Block(Arm(requests=900, failures=9), Arm(requests=100, failures=5)),
        Block(Arm(requests=500, failures=250), Arm(requests=500, failures=240)),
    ]
    found = trial(ERRORS, mirrored, live=False).go_live()
    for block in live:
        found = found.updated(block, live=True)
    assert found.excess == pytest.approx(5 - 1 + 240 - 250)


def slow(milliseconds: float, n: int) -> dict[float, int]:
    return {milliseconds / 1.1: 0, milliseconds: n}


USUAL = {**slow(10, 900), **slow(20, 100)}
KNOWN = Block(Arm(requests=1000, latency=USUAL), Arm(requests=1000, latency=USUAL))


@pytest.mark.parametrize(
    ("candidate", "outcome"),
    [
        ({}, "wait"),
        (slow(21, 30), "wait"),
        (slow(21, 500), "pass"),
        (slow(100, 50), "fail"),
        ({**slow(21, 900), **slow(100, 100)}, "fail"),
        ({**slow(21, 990), **slow(100, 10)}, "pass"),
        ({**slow(21, 950), **slow(100, 50)}, "wait"),
        ({1000.0: 0, math.inf: 50}, "fail"),
    ],
)
def test_latency(candidate: dict[float, int], outcome: str) -> None:
    """p95 of stable is 20 ms, the limit 30 ms."""
    shadow = trial({"predictions": None}, KNOWN, live=False)
    own = Arm(requests=sum(candidate.values()), latency=candidate)
    block = Block(Arm(requests=1000, latency=USUAL), own)
    found = verdict(shadow.go_live().updated(block, True), "latency")
    assert found.outcome == outcome, found


def test_both_arms_slow_down_together() -> None:
    shadow = trial({"predictions": None}, KNOWN, live=False)
    both = Arm(requests=500, latency={**slow(10, 100), **slow(90, 400)})
    assert verdict(shadow.go_live().updated(Block(both, both), True), "latency").outcome == "wait"


def test_bounds_of_the_ratio_hold_what_is_seen() -> None:
    shadow = trial({"predictions": None}, *[KNOWN] * 3, live=False)
    found = verdict(shadow, "latency")
    assert (
        found.unit == "ratio"
        and found.estimate == 1
        and found.limit == pytest.approx(1.5, abs=0.03)
    )
    assert found.lower is not None and found.upper is not None
    assert 0.5 <= found.lower <= 1 <= found.upper <= 1.5
    assert "p95 19 ms (18 to 20) at" in found.text and "(limit 29 ms)" in found.text


def test_a_histogram_that_is_too_coarse_says_which_edge_it_lacks() -> None:
    """Stable's quantile and the limit are in one bucket: no count can tell good from bad."""
    coarse = Arm(requests=500, latency={50.0: 400, 500.0: 50, 5000.0: 50, math.inf: 0})
    many = trial({"predictions": None}, *[Block(coarse, coarse)] * 20)
    found = verdict(many, "latency")
    assert found.outcome == "wait"
    assert "the histogram has no edge between 500 and 750 ms" in found.text


def test_quantiles() -> None:
    assert quantile({}, 0.5) is None
    assert quantile({10.0: 0, 20.0: 100}, 0.5) == 15
    assert quantile({10.0: 90, 20.0: 10}, 0.95) == 15


PREDICTIONS = {"latency": None, "predictions": {"slices": ["carrier"]}}


@pytest.mark.parametrize(
    ("disagreement", "outcome"),
    [(0, "pass"), (20.5, "pass"), (38, "wait"), (50, "wait"), (120.25, "fail")],
)
def test_predictions(disagreement: float, outcome: str) -> None:
    pairs = Pairs(requests=200, disagreement=disagreement)
    found = trial(PREDICTIONS, Block(NONE, NONE, pairs), live=False)
    assert verdict(found, "predictions", shadow=True).outcome == outcome
    assert all(v.gate != "predictions" for v in found.verdicts(shadow=False))


def test_a_slice_is_looked_at_for_harm_and_holds_nothing_up() -> None:
    slices = {
        "carrier=AA": Slice(requests=150, disagreement=2.0),
        "carrier=HA": Slice(requests=3, disagreement=3.0),
        "carrier=UA": Slice(requests=40, disagreement=30.0),
    }
    block = Block(NONE, NONE, Pairs(requests=193, disagreement=35.0, slices=slices))
    found = trial(PREDICTIONS, block, live=False)
    harm, small = (verdict(found, f"predictions carrier={c}", True) for c in ("UA", "HA"))
    assert harm.outcome == "fail" and "30 of 40" in harm.text and harm.of_slice
    assert small.outcome == "wait"


def test_slices_that_come_up_late_are_tested_from_then_on() -> None:
    first = Pairs(requests=50, slices={"carrier=AA": Slice(requests=50)})
    second = Pairs(requests=60, disagreement=20.0, slices={
        "carrier=AA": Slice(requests=40),
        "carrier=UA": Slice(requests=20, disagreement=20.0),
    })  # fmt: skip
    found = trial(PREDICTIONS, Block(NONE, NONE, first), Block(NONE, NONE, second), live=False)
    assert verdict(found, "predictions carrier=UA", True).outcome == "fail"
    assert verdict(found, "predictions carrier=AA", True).outcome == "wait"


SCORES = {**ERRORS, "scores": {"max_shift": 0.1}}


def scored(*counts: int) -> Arm:
    edges = [0.2, 0.4, 0.6, 0.8, 1.0]
    return Arm(requests=sum(counts), scores=dict(zip(edges, counts, strict=True)))


@pytest.mark.parametrize(
    ("candidate", "outcome"),
    [
        (scored(0, 0, 0, 0, 0), "wait"),
        (scored(8, 10, 10, 8, 4), "wait"),
        (scored(400, 500, 500, 400, 200), "pass"),
        (scored(100, 300, 500, 600, 500), "fail"),
        (scored(900, 500, 300, 200, 100), "fail"),
    ],
)
def test_scores(candidate: Arm, outcome: str) -> None:
    stable = scored(400, 500, 500, 400, 200)
    shadow = trial(SCORES, Block(stable, stable), live=False).go_live()
    found = verdict(shadow.updated(Block(stable, candidate), True), "scores")
    assert found.outcome == outcome
    if outcome == "fail":
        assert "shifted by" in found.text and "at stable" in found.text


def test_scores_of_one_bucket_say_so() -> None:
    stable = scored(0, 500, 0, 0, 0)
    found = verdict(trial(SCORES, Block(stable, stable), Block(stable, stable)), "scores")
    assert found.outcome == "wait" and "all of stable's scores are in one bucket" in found.text


def test_alpha_is_split_among_the_tests_there_are() -> None:
    block = Block(Arm(requests=100), Arm(requests=100))
    assert verdict(trial(ERRORS, block), "errors").threshold == 100
    assert verdict(trial({}, block), "errors").threshold == 300
    every = {**PREDICTIONS, "latency": {}, "scores": {}}
    assert verdict(trial(every, block), "errors").threshold == 500
    full = {"canary": {"steps": [5, 100]}}
    assert verdict(trial(ERRORS, block, policy=full), "errors").threshold == 200


def test_how_much_more_would_decide_is_about_right() -> None:
    block = Block(Arm(requests=50), Arm(requests=50))
    found = trial(ERRORS, *[block] * 4)
    more = verdict(found, "errors").more
    assert more is not None
    needed = 0
    while verdict(found, "errors").outcome == "wait":
        found, needed = found.updated(block, True), needed + 50
    assert needed / 1.5 <= more <= needed * 1.5


def test_estimates_of_one_step() -> None:
    gates = Policy().gates
    good = Arm(requests=100, failures=1, latency=slow(20, 100))
    assert limit_exceeded(gates, good, good) is None
    assert "3 of 100 failed" in str(limit_exceeded(gates, good, Arm(requests=100, failures=3)))
    late = Arm(requests=100, failures=1, latency=slow(40, 100))
    assert "p95 40 ms at the candidate, 20 ms" in str(limit_exceeded(gates, good, late))
    assert limit_exceeded(gates, NONE, good) == "no requests to compare"


def test_pairs_that_are_judged_anew_tell_nothing() -> None:
    def counts(pairs: Pairs) -> Counts:
        return Counts(time=1.0, epoch="a", pairs=pairs)

    before, fewer = Pairs(requests=9, disagreement=3), Pairs(requests=12, disagreement=2)
    assert difference(counts(before), counts(fewer)).pairs is None
    more = difference(counts(before), counts(Pairs(requests=12, disagreement=4.5))).pairs
    assert more is not None and (more.requests, more.disagreement) == (3, 1.5)


def test_buckets_that_were_merged_tell_nothing() -> None:
    """Before the candidate has scores, stable has edges of its own (`prometheus.same_edges`)."""

    def counts(scores: dict[float, int]) -> Counts:
        return Counts(time=1.0, epoch="a", stable=Arm(requests=99, scores=scores))

    before = counts({0.1: 40, 0.5: 40, math.inf: 0})
    assert difference(before, counts({0.5: 90, math.inf: 0})).stable.scores == {}
    more = difference(before, counts({0.1: 41, 0.3: 2, 0.5: 39, math.inf: 9})).stable.scores
    assert more == {0.1: 1, 0.3: 2, 0.5: 0, math.inf: 9}, "a bucket is never negative"


def test_scores_that_are_scraped_at_other_times_than_requests() -> None:
    """By turns, as where the Gateway's Envoys count requests, and servers have the scores."""
    stable, moved = scored(400, 500, 500, 400, 200), scored(100, 300, 500, 600, 500)
    seen = trial(SCORES, Block(stable, stable), live=False).go_live()
    for _ in range(3):
        asked, answered = {"scores": {}}, {"requests": 0}
        for part in (asked, answered):
            block = Block(stable.model_copy(update=part), moved.model_copy(update=part))
            seen = seen.updated(block, True)
    assert verdict(seen, "scores").outcome == "fail"


def test_many_rows_in_a_request_are_no_more_evidence_than_one() -> None:
    stable, moved = scored(400, 500, 500, 400, 200), scored(100, 300, 500, 600, 500)
    shadow = trial(SCORES, Block(stable, stable), live=False).go_live()
    few = Block(
        stable.model_copy(update={"requests": 20}), moved.model_copy(update={"requests": 20})
    )
    assert verdict(shadow.updated(few, True), "scores").outcome == "wait"
    assert verdict(shadow.updated(Block(stable, moved), True), "scores").outcome == "fail"
