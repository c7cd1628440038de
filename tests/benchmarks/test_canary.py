"""The canary benchmark: the same requests for all, the peers' schedules, and its bounds."""

import json
import subprocess
import sys
from dataclasses import dataclass, field, replace

import pytest
from benchmarks.canary import release as arm
from benchmarks.canary.outcome import Decision, Outcome
from benchmarks.canary.peers import argo_rollouts, flagger
from benchmarks.canary.report import figures, line
from benchmarks.canary.simulate import FAULTS, NO_CHANGE, OURS, SILENCE, TOOLS, policy
from benchmarks.canary.traffic import LOADED, Fault, Served, Traffic
from support import ROOT

from modelyard.delivery.release.decide import roll_back
from modelyard.delivery.release.state import Action

BROKEN = Fault("broken", failures=1.0)
WORSE = Fault("worse", failures=0.1)
SLOW = Fault("slow", slowdown=2.0)
ALL_STEPS = [weight for weight in (20, 40, 60, 80) for _ in range(5)]


@dataclass
class Watched(Traffic):
    """Remembers the weights it was served at."""

    weights: list[int] = field(default_factory=list)

    def serve(self, seconds: int, weight: int, mirror: bool = False) -> Served:
        self.weights.append(weight)
        return super().serve(seconds, weight, mirror)


def test_every_tool_meets_the_same_requests() -> None:
    whole, parts = Traffic(WORSE, 7), Traffic(WORSE, 7)
    minute = whole.serve(60, 0)
    seconds = [parts.serve(1, 0) for _ in range(60)]
    assert len(minute.stable.failed) == sum(len(s.stable.failed) for s in seconds) > 2500
    assert sum(s.stable.latency.sum() for s in seconds) == pytest.approx(
        minute.stable.latency.sum()
    )
    half = Traffic(WORSE, 7).serve(60, 50)
    assert len(half.stable.failed) + len(half.candidate.failed) == len(minute.stable.failed)
    assert set(half.stable.latency) < set(minute.stable.latency)


def test_harm_is_what_the_fault_adds() -> None:
    answers = Traffic(WORSE, 1).serve(60, 100).candidate
    own = answers.failed & ~answers.caused
    assert answers.caused.mean() == pytest.approx(0.1, abs=0.02)
    assert own.sum() == (Traffic(NO_CHANGE, 1).serve(60, 100).candidate.failed).sum()
    assert Traffic(BROKEN, 1).serve(60, 100).candidate.failed.all()


def test_faults_that_mirrored_requests_do_not_show_or_that_come_late() -> None:
    hidden, late = replace(BROKEN, live_only=True), replace(BROKEN, late=True)
    seen = Traffic(hidden, 1).serve(60, 50, mirror=True)
    assert seen.candidate.failed.all() and not seen.mirrored.failed.all()
    traffic = Traffic(late, 1)
    assert not traffic.serve(60, LOADED - 1).candidate.failed.all()
    assert traffic.serve(60, LOADED).candidate.failed.all()
    assert traffic.serve(60, 5).candidate.failed.all()
    shifted = Traffic(Fault("shifted", shift=1.0), 1).serve(60, 0, mirror=True)
    assert shifted.mirrored.score.mean() > shifted.stable.score.mean() + 0.15
    with pytest.raises(ValueError, match="beyond the minute"):
        traffic.serve(61, 5)


@pytest.mark.parametrize(
    ("fault", "decision", "weights"),
    [
        (NO_CHANGE, "promoted", [10, 20, 30, 40, 50]),
        (BROKEN, "rolled_back", [10] * 5),
        (SLOW, "rolled_back", [10] * 5),
        (replace(BROKEN, late=True), "rolled_back", [10] + [20] * 5),
        (SILENCE, "rolled_back", [10] + [20] * 5),
    ],
)
def test_flagger(fault: Fault, decision: str, weights: list[int]) -> None:
    """interval x maxWeight / stepWeight to promote, interval x threshold to roll back."""
    traffic = Watched(fault, 3)
    outcome = flagger(traffic)
    assert (outcome.decision, traffic.weights) == (decision, weights)
    assert outcome.seconds == 60 * len(weights) and not outcome.blind


@pytest.mark.parametrize(
    ("fault", "decision", "weights"),
    [
        (NO_CHANGE, "promoted", ALL_STEPS),
        (WORSE, "rolled_back", [20] * 3),
        (
            replace(WORSE, failures=0.02),
            "promoted",
            ALL_STEPS,
        ),
        (SILENCE, "rolled_back", [20] * 3),
    ],
)
def test_argo_rollouts(fault: Fault, decision: str, weights: list[int]) -> None:
    traffic = Watched(fault, 3)
    outcome = argo_rollouts(traffic)
    assert (outcome.decision, traffic.weights) == (decision, weights)
    assert not outcome.blind


def test_a_rise_without_traffic_shows() -> None:
    traffic, outcome = Traffic(SILENCE, 1), Outcome()
    outcome.watch(traffic, 60, LOADED)
    outcome.rise(traffic)
    assert outcome.blind


@pytest.mark.parametrize("tool", OURS)
def test_modelyard_is_its_own_machine(tool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A candidate that breaks is rolled back in the shadow, by the gates alone."""
    broken = arm.release(policy(tool), Traffic(BROKEN, 1))
    assert (broken.decision, broken.exposed) == ("rolled_back", 0)
    monkeypatch.setattr(arm, "decide", _always_back)
    outcome = arm.release(policy(tool), Traffic(NO_CHANGE, 1))
    assert (outcome.decision, outcome.seconds) == ("rolled_back", 0)


def _always_back(*_: object) -> Action:
    return roll_back("planted")


def _ended(decision: Decision = "rolled_back", harm: int = 0, blind: bool = False) -> list[Outcome]:
    return [Outcome(decision, seconds=100, harm=harm, blind=blind)] * 100


def _perfect() -> dict[tuple[str, str], list[Outcome]]:
    results = {(f.name, t): _ended(harm=100 if t not in OURS else 0) for f in FAULTS for t in TOOLS}
    for tool in TOOLS:
        results[NO_CHANGE.name, tool] = _ended("promoted")
    results[NO_CHANGE.name, "Flagger"] = [Outcome("promoted", 300)] * 100
    return results


def test_the_bounds_hold_for_perfect_releases() -> None:
    found = figures(_perfect())
    assert {name for name, figure in found.items() if not figure["ok"]} == set()
    assert all("0.0%" in line(fault, tool, _perfect()) for fault in FAULTS for tool in TOOLS)


@pytest.mark.parametrize(
    ("fault", "planted", "missed"),
    [
        ("no change", _ended("promoted")[2:] + _ended()[:2], "false_rollbacks"),
        ("no change", _ended("promoted")[2:] + _ended("inconclusive")[:2], "false_rollbacks"),
        ("no change", [Outcome("promoted", 151)], "time"),
        ("traffic stops", _ended(blind=True), "raised_without_traffic"),
        ("failures +2 points", _ended("promoted"), "missed_failures_2_points"),
        ("latency x 2", _ended("promoted"), "missed_latency_x_2"),
        ("shifted score, live only", _ended("promoted"), "missed_shifted_score_live_only"),
        ("failures +10 points, live only", _ended(harm=21), "harm_failures_10_points_live_only"),
    ],
)
def test_each_bound_is_missed_by_what_misses_it(
    fault: str, planted: list[Outcome], missed: str
) -> None:
    results = _perfect()
    results[fault, TOOLS[0]] = planted
    found = [name for name, figure in figures(results).items() if not figure["ok"]]
    assert any(name.startswith(missed) and name.endswith("harm_budget") for name in found)


def test_the_page_shows_the_policies() -> None:
    page = (ROOT / "docs/how-to/canary-benchmark.md").read_text()
    for text in OURS.values():
        assert text.strip() in page


@pytest.mark.slow
def test_the_command_prints_a_table_and_one_json_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.canary", "--runs", "2", "--json"],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    *lines, last = done.stdout.splitlines()
    found = json.loads(last)
    assert done.returncode in (0, 1), done.stderr
    assert set(found) == {"ok", "machine", "figures"} and found["ok"] == (done.returncode == 0)
    assert all(set(figure) == {"value", "bound", "ok"} for figure in found["figures"].values())
    assert sum("Flagger" in line for line in lines) == len(FAULTS)
