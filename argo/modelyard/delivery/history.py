"""What a release record tells: one summary, and series for pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from modelyard.delivery.gates import quantile
from modelyard.delivery.ports import Arm, Evidence
from modelyard.documents import ReleaseEvent
from modelyard.documents.record import Decision

_LIVE = ("canary", "promote", "rollback")


@dataclass(frozen=True)
class Summary:
    """One release in a line."""

    release: str
    version: int
    stable: int | None
    """the version it was compared with"""
    decision: Decision | None
    """None: unfinished"""
    reason: str
    seconds: float
    requests: int
    """of users: replayed ones as their client saw them, else as the data plane counted them"""
    failed_requests: int
    stable_downtime_s: float


@dataclass(frozen=True)
class Point:
    """Between two looks."""

    began: float
    time: float
    """the earlier look and the later one, s since the release began"""
    weight: int
    phase: str
    stable: Arm
    candidate: Arm


def summary(events: Sequence[ReleaseEvent]) -> Summary:
    """The whole release in a line."""
    last, evidence = events[-1], [_evidence(e) for e in events]
    users = [e.users for e in evidence if e and e.users]
    sent = [u.requests for u in users if u.requests is not None]
    if sent:
        requests, failures = _total(sent), _total([u.failures for u in users])
    else:
        requests, failures = _counted(events)
    return Summary(
        release=last.release,
        version=last.candidate,
        stable=events[0].stable,
        decision=last.decision,
        reason=last.reason,
        seconds=round(max(0.0, last.time - events[0].time), 1),
        requests=int(requests),
        failed_requests=int(failures),
        stable_downtime_s=round(_total([u.stable_downtime_s for u in users]), 2),
    )


def points(events: Sequence[ReleaseEvent]) -> list[Point]:
    """What each version answered between one look and the next, oldest first."""
    found = []
    looks = [(e, c) for e in events if (x := _evidence(e)) and (c := x.counts)]
    for (before, old), (event, new) in pairwise(looks):
        anew = old.epoch != new.epoch
        found.append(
            Point(
                began=before.time - events[0].time,
                time=event.time - events[0].time,
                # What came in between the looks came under the earlier one's weight.
                weight=before.weight,
                phase=before.phase,
                stable=_since(old.stable, new.stable, anew),
                candidate=_since(old.candidate, new.candidate, anew),
            )
        )
    return found


def latency(points: Sequence[Point], arm: str, q: float) -> float | None:
    """The `q` quantile of an arm (`stable`, `candidate`) over some points, ms."""
    merged: dict[float, int] = {}
    for point in points:
        for edge, count in getattr(point, arm).latency.items():
            merged[edge] = merged.get(edge, 0) + count
    return quantile(merged, q)


def _counted(events: Sequence[ReleaseEvent]) -> tuple[int, int]:
    """Requests and failures of live traffic; mirrored ones had no user."""
    requests = failures = 0
    for point in points(events):
        arms = [point.stable, point.candidate] if point.phase in _LIVE else [point.stable]
        requests += sum(a.requests for a in arms)
        failures += sum(a.failures for a in arms)
    return requests, failures


def _total(running: Sequence[float]) -> float:
    """The sum of running totals that begin anew with each controller."""
    total = before = 0.0
    for value in running:
        total += value - before if value >= before else value
        before = value
    return total


def _since(before: Arm | None, now: Arm | None, anew: bool) -> Arm:
    now = now or Arm()
    if before is None or anew or before.requests > now.requests:
        return now if before is not None else Arm()
    return Arm(
        requests=now.requests - before.requests,
        failures=max(0, now.failures - before.failures),
        latency={e: max(0, n - before.latency.get(e, 0)) for e, n in now.latency.items()},
    )


def _evidence(event: ReleaseEvent) -> Evidence | None:
    return Evidence.model_validate(event.evidence) if event.evidence else None
