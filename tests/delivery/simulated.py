"""Records of releases in traffic that was never sent: the machine's own, on counts with a seed.

`decide`, `next_event` and `apply` are called as the controller calls them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from modelyard.delivery.evidence.counts import Arm, Counts, Disagreement, Pairs, Slice
from modelyard.delivery.evidence.looks import Evidence, Health, Users
from modelyard.delivery.policy import Policy
from modelyard.delivery.ports import Routes
from modelyard.delivery.release.assess import assess
from modelyard.delivery.release.decide import decide
from modelyard.delivery.release.fold import apply, first_event, next_event, replay
from modelyard.delivery.release.state import State, routes_of
from modelyard.documents import ReleaseEvent

BEGAN = 1_790_000_000.0
EDGES_MS = np.array([*range(1, 100), *range(100, 1000, 10), *range(1000, 10_001, 100)], dtype=float)
SCORES = np.append(np.round(np.arange(1, 20) / 20, 2), np.inf)
CARRIERS = {"UA": 0.3, "B6": 0.25, "EV": 0.2, "DL": 0.15, "AA": 0.07, "HA": 0.03}
MARKUP = "<script>alert('EWR & JFK')</script>"
SETTINGS: dict[str, Any] = {
    "interval": "250ms",
    "shadow": {"min_requests": 250, "max_duration": "60s"},
    "canary": {"steps": [5, 25, 50], "min_requests": 25, "min_duration": "2s",
               "max_duration": "60s"},
    "gates": {
        "errors": {"margin": 0.02},
        "latency": {"quantile": 0.9, "ratio": 2.0, "slack": "50ms"},
        "predictions": {"tolerance": 1.5, "max_disagreement": 0.2, "slices": ["carrier"]},
        "scores": {"max_shift": 0.2},
    },
}  # fmt: skip


@dataclass(frozen=True)
class Candidate:
    """What is wrong with it, beside what is wrong with stable."""

    failing: float = 0.0
    """share of its requests that fail"""
    late: float = 0.0
    """s after the begin at which failing begins"""
    slower: float = 1.0
    """times stable's latency"""
    shift: float = 0.0
    """of its scores, of users' requests only"""
    disagreeing: dict[str, float] = field(default_factory=dict)
    """share of the rows with this carrier that it scores otherwise; "" for all others"""


@dataclass
class Traffic:
    """Requests of users, and what both versions made of them; running totals."""

    candidate: Candidate
    rate: float
    failing: float
    """share of stable's requests that fail"""
    rng: np.random.Generator
    arms: dict[str, Arm] = field(default_factory=lambda: {"stable": Arm(), "candidate": Arm()})
    pairs: Pairs = field(default_factory=Pairs)
    users: Users = field(default_factory=lambda: Users(requests=0))

    def serve(self, began: float, seconds: float, routes: Routes) -> None:
        n = int(self.rng.poisson(self.rate * seconds))
        theirs = int(self.rng.binomial(n, routes.weight / 100)) if routes.candidate else 0
        late = began >= self.candidate.late
        ours = self._answer("stable", n - theirs, self.failing, 1.0, 0.0)
        fails = self.failing + (self.candidate.failing if late else 0.0)
        slower, shift = self.candidate.slower, self.candidate.shift
        seen = self._answer("candidate", n if routes.mirror else theirs, fails, slower,
                            0.0 if routes.mirror else shift)  # fmt: skip
        if routes.mirror:
            self._pair(n, began)
        lost = ours + (0 if routes.mirror else seen)
        self.users = Users(
            requests=(self.users.requests or 0) + n, failures=self.users.failures + lost
        )

    def _answer(self, name: str, n: int, failing: float, slower: float, shift: float) -> int:
        before, failed = self.arms[name], int(self.rng.binomial(n, min(1.0, failing)))
        ms = self.rng.lognormal(2.5, 0.5, n) * slower
        scores = np.clip(self.rng.beta(2, 5, n - failed) + shift, 0, 1)
        self.arms[name] = Arm(
            requests=before.requests + n,
            failures=before.failures + failed,
            latency=_histogram(before.latency, EDGES_MS, ms),
            scores=_histogram(before.scores, SCORES, scores, empty=True),
        )
        return failed

    def _pair(self, n: int, moment: float) -> None:
        carriers = self.rng.choice(list(CARRIERS), size=n, p=list(CARRIERS.values()))
        odds = self.candidate.disagreeing
        shares = np.array([odds.get(c, odds.get("", 0.02)) for c in carriers])
        bad = self.rng.random(n) < shares
        slices = dict(self.pairs.slices)
        for carrier in CARRIERS:
            mine, key = carriers == carrier, f"carrier={carrier}"
            before = slices.get(key, Slice())
            slices[key] = Slice(
                requests=before.requests + int(mine.sum()),
                disagreement=before.disagreement + float(bad[mine].sum()),
            )
        found = [self._disagreement(carriers[i], int(1000 * moment) + i)
                 for i in np.flatnonzero(bad).tolist()]  # fmt: skip
        largest = sorted([*self.pairs.largest, *found], key=_distance, reverse=True)[:10]
        self.pairs = Pairs(
            requests=self.pairs.requests + n,
            disagreement=self.pairs.disagreement + float(bad.sum()),
            slices=slices,
            largest=tuple(largest),
        )

    def _disagreement(self, carrier: str, number: int) -> Disagreement:
        score = float(self.rng.beta(2, 5))
        other = score + (0.3 + 0.5 * float(self.rng.random())) * (1 - score)
        inputs = {"carrier": carrier, "origin": MARKUP, "hour": int(self.rng.integers(5, 23)),
                  "wind_speed": None}  # fmt: skip
        return Disagreement(request_id=f"{number:08x}-6f1a", row=0, inputs=inputs,
                            stable=[round(score, 4)], candidate=[round(other, 4)])  # fmt: skip

    def evidence(self, time: float, state: State) -> Evidence:
        counts = None
        if state.phase in ("shadow", "canary"):
            shadow = state.phase == "shadow"
            counts = Counts(time=time, epoch="simulated", stable=self.arms["stable"],
                            candidate=self.arms["candidate"],
                            pairs=self.pairs if shadow else None)  # fmt: skip
        ready = Health(status="ready")
        return Evidence(time=time, candidate=ready, stable=ready, counts=counts, users=self.users)


def record(
    candidate: Candidate | None = None,
    settings: dict[str, Any] | None = None,
    *,
    rate: float = 120.0,
    failing: float = 0.0,
    seed: int = 0,
    version: int = 2,
    began: float = BEGAN,
    events: int = 10_000,
) -> list[ReleaseEvent]:
    """A whole record; `events` cuts it off.

    Args:
        settings: over `SETTINGS`, key by key.
        rate: requests a second.
        failing: share of stable's requests that fail.
    """
    policy = Policy.model_validate({**SETTINGS, **(settings or {})})
    traffic = Traffic(candidate or Candidate(), rate, failing, np.random.default_rng(seed))
    found = _events(policy, traffic, version, began)
    return [event for event, _ in zip(found, range(events), strict=False)]


def _events(policy: Policy, traffic: Traffic, version: int, began: float) -> Iterator[ReleaseEvent]:
    time = began
    first = first_event(f"r{began:.0f}-v{version}", version, version - 1, time, policy)
    yield first
    state = replay([first])
    while state.phase != "done":
        seen = assess(state, traffic.evidence(time, state))
        action = decide(state, seen)
        event = next_event(state, action, seen)
        yield event
        moved = action.moves(state)
        state = apply(state, event, seen)
        seconds = 0.05 if moved else policy.interval
        traffic.serve(time - began, seconds, routes_of(state))
        time += seconds


def _histogram(
    before: dict[float, int], edges: np.ndarray, values: np.ndarray, empty: bool = False
) -> dict[float, int]:
    cells = np.minimum(np.searchsorted(edges, values), len(edges) - 1)
    counts = np.bincount(cells, minlength=len(edges))
    counts += np.array([before.get(edge, 0) for edge in edges.tolist()], dtype=int)
    used = counts > 0
    # The empty bucket below one in use is its lower edge.
    used[:-1] |= used[1:]
    shown = used | empty
    return dict(zip(edges[shown].tolist(), counts[shown].tolist(), strict=True))


def _distance(pair: Disagreement) -> float:
    ours, theirs = pair.stable[0], pair.candidate[0]
    return abs((ours or 0.0) - (theirs or 0.0))
