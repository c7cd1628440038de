"""A release of modelyard in the simulated traffic: its own state machine, looking every second.

Nothing is decided here. `assess`, `decide`, `next_event` and `apply` are called as the
controller calls them, on counts as the local Envoy and the prediction logs give them.
"""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from benchmarks.canary.outcome import Outcome
from benchmarks.canary.traffic import Answers, Served, Traffic
from modelyard.delivery.evidence.counts import Arm, Counts, Pairs
from modelyard.delivery.evidence.looks import Evidence, Health
from modelyard.delivery.policy import Policy
from modelyard.delivery.release.assess import assess
from modelyard.delivery.release.decide import decide
from modelyard.delivery.release.fold import apply, first_event, next_event, replay
from modelyard.delivery.release.state import State, routes_of

# Envoy's bins: two digits of whole milliseconds; an answer of 0 ms is in the first.
EDGES_MS = np.array([*range(1, 100), *range(100, 1000, 10), *range(1000, 10_001, 100)])
_SCORES = np.round(np.linspace(0.05, 1, 20), 2)
_BEGIN = 1_700_000_000
_READY = Health(status="ready")


def release(policy: Policy, traffic: Traffic) -> Outcome:
    """One release, until it is decided or its traffic has long ended."""
    state = replay([first_event("simulated", 2, 1, _BEGIN, policy)])
    totals, outcome = _Totals(), Outcome()
    while state.phase != "done":
        seen = assess(state, totals.evidence(_BEGIN + traffic.time, state))
        action = decide(state, seen)
        moved, rose = action.moves(state), action.weight > state.weight
        state = apply(state, next_event(state, action, seen), seen)
        if rose:
            outcome.rise(traffic)
        if state.phase in ("promote", "rollback"):
            break
        if not moved:
            routes = routes_of(state)
            served = traffic.serve(1, routes.weight, routes.mirror)
            totals.add(outcome.count(served))
    if state.phase == "promote":
        return outcome.end("promoted", traffic)
    return outcome.end("inconclusive" if "undecided" in state.reason else "rolled_back", traffic)


@dataclass
class _Tally:
    """Running totals of one version."""

    requests: int = 0
    failures: int = 0
    latency: np.ndarray = field(default_factory=lambda: np.zeros(len(EDGES_MS), dtype=int))
    scores: np.ndarray = field(default_factory=lambda: np.zeros(len(_SCORES), dtype=int))
    waiting: Answers | None = None
    """for their answers, at the end of the last second"""

    def add(self, seen: Answers) -> None:
        """A second's requests; who waits at its end is answered in the next."""
        if self.waiting is not None:
            self._count(self.waiting)
        self._count(seen.take(seen.latency <= seen.rest))
        self.waiting = seen.take(seen.latency > seen.rest)

    def _count(self, seen: Answers) -> None:
        self.requests += len(seen.failed)
        self.failures += int(seen.failed.sum())
        cells = np.searchsorted(EDGES_MS, seen.latency, side="right")
        self.latency += np.bincount(np.minimum(cells, len(EDGES_MS) - 1), minlength=len(EDGES_MS))
        cells = np.searchsorted(_SCORES, seen.score[~seen.failed])
        self.scores += np.bincount(cells, minlength=len(_SCORES))

    def arm(self) -> Arm:
        used = self.latency > 0
        used[:-1] |= used[1:]  # the empty bucket below one in use is its lower edge
        return Arm(
            requests=self.requests,
            failures=self.failures,
            pending=0 if self.waiting is None else len(self.waiting.failed),
            latency=dict(zip(EDGES_MS[used].tolist(), self.latency[used].tolist(), strict=True)),
            scores=dict(zip(_SCORES.tolist(), self.scores.tolist(), strict=True)),
        )


class _Totals:
    """What Envoy and the prediction logs have counted."""

    def __init__(self) -> None:
        self.stable, self.candidate = _Tally(), _Tally()
        self.pairs: Counter[str] = Counter()

    def add(self, served: Served) -> None:
        self.stable.add(served.stable)
        mirrored = len(served.mirrored.failed) > 0
        self.candidate.add(served.mirrored if mirrored else served.candidate)
        if mirrored:
            # Stable answers what is mirrored first: a pair needs both.
            both = ~served.mirrored.failed & ~served.stable.failed
            self.pairs["requests"] += int(both.sum())
            self.pairs["disagree"] += int((both & served.disagree).sum())

    def evidence(self, now: float, state: State) -> Evidence:
        watched = state.phase in ("shadow", "canary")
        return Evidence(
            time=now,
            candidate=_READY,
            stable=_READY,
            counts=self._counts(now, state.phase == "shadow") if watched else None,
        )

    def _counts(self, now: float, shadow: bool) -> Counts:
        n, d = self.pairs["requests"], self.pairs["disagree"]
        pairs = Pairs(requests=n, disagreement=d) if shadow else None
        return Counts(
            time=now,
            epoch="simulated",
            stable=self.stable.arm(),
            candidate=self.candidate.arm(),
            pairs=pairs,
        )
