"""What a release record tells: one summary, and series for pictures."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise

from pydantic import ValidationError

from modelyard.delivery.evidence.counts import Arm, Counts
from modelyard.delivery.evidence.looks import Evidence
from modelyard.delivery.gates.trial import Verdict
from modelyard.documents import ReleaseEvent, UserError
from modelyard.documents.record import Decision

_LIVE = ("canary", "promote", "rollback")
_FIELDS = {field.name for field in fields(Verdict)}


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
    candidate_requests: int
    """of users, as the data plane counted them; so the copies of the shadow are not among them"""
    candidate_failures: int
    stable_downtime_s: float
    stable_silent: bool = False
    """whether stable did not answer at the last look"""


def stable_down(s: Summary) -> str:
    """How long stable was; empty where there was none."""
    return "" if s.stable is None else f"{s.stable_downtime_s:g} s"


@dataclass(frozen=True)
class Look:
    """One event, read."""

    time: float
    """s since the release began; a clock that was set back stands still here"""
    event: ReleaseEvent
    evidence: Evidence | None
    verdicts: tuple[Verdict, ...]

    @property
    def counts(self) -> Counts | None:
        return self.evidence.counts if self.evidence else None


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
    replayed: Arm
    """of stable's: what the release itself sent into the shadow"""

    @property
    def live(self) -> bool:
        """Whether it was users who got the candidate's answers."""
        return self.phase in _LIVE


def looks(events: Sequence[ReleaseEvent]) -> list[Look]:
    """A record, read; one an event.

    Raises:
        UserError: no evidence or no verdict in it (the record was edited).
    """
    found, now = [], 0.0
    for event in events:
        now = max(now, event.time - events[0].time)
        try:
            evidence = Evidence.model_validate(event.evidence) if event.evidence else None
            found.append(Look(now, event, evidence, verdicts(event)))
        except (ValidationError, TypeError) as error:
            where = f"release {event.release}, event {event.sequence}"
            what = str(error).splitlines()[-1].strip()
            raise UserError(f"{where}: no evidence that can be read ({what})") from None
    return found


def verdicts(event: ReleaseEvent) -> tuple[Verdict, ...]:
    """What the gates said at this look; fields of other versions of modelyard are left out."""
    return tuple(
        Verdict(**{key: value for key, value in found.items() if key in _FIELDS})
        for found in event.verdicts
    )


def summary(events: Sequence[ReleaseEvent]) -> Summary:
    """The whole release in a line."""
    return summed(looks(events))


def summed(found: Sequence[Look]) -> Summary:
    """As `summary`, of events that were read already."""
    first, last = found[0].event, found[-1].event
    users = [x.evidence.users for x in found if x.evidence and x.evidence.users]
    sent = [u.requests for u in users if u.requests is not None]
    shown = points(found)
    if sent:
        requests, failures = _total(sent), _total([u.failures for u in users])
    else:
        requests, failures = _counted(shown)
    live = [p.candidate for p in shown if p.live]
    return Summary(
        release=last.release,
        version=last.candidate,
        stable=first.stable,
        decision=last.decision,
        reason=last.reason,
        seconds=round(found[-1].time, 1),
        requests=int(requests),
        failed_requests=int(failures),
        candidate_requests=sum(a.requests for a in live),
        candidate_failures=sum(a.failures for a in live),
        stable_downtime_s=round(_total([u.stable_downtime_s for u in users]), 2),
        stable_silent=_silent(found[-1].evidence),
    )


def _silent(seen: Evidence | None) -> bool:
    return seen is not None and seen.stable is not None and not seen.stable.answers


def turns(found: Sequence[Look]) -> list[Look]:
    """The looks at which something was decided: another phase or weight, or the end."""
    first, rest = found[:1], pairwise(found)
    return [*first, *(b for a, b in rest if _place(a.event) != _place(b.event))]


def newest_verdicts(found: Sequence[Look]) -> tuple[Verdict, ...]:
    """Of the last look that has any: of the one that decided, if the release is decided."""
    return next((x.verdicts for x in reversed(found) if x.verdicts), ())


def tracks(found: Sequence[Look], most: int) -> dict[str, list[tuple[float, Verdict]]]:
    """Each gate's verdicts over time, thinned out to about `most`.

    Of neighbours the last is kept, and the one with the largest e-value.
    """
    by_gate: dict[str, list[tuple[float, Verdict]]] = {}
    for x in found:
        for verdict in x.verdicts:
            by_gate.setdefault(verdict.gate, []).append((x.time, verdict))
    return {gate: _thinned(track, most) for gate, track in by_gate.items()}


def _thinned(track: list[tuple[float, Verdict]], most: int) -> list[tuple[float, Verdict]]:
    if len(track) <= most:
        return track
    size = -(-2 * len(track) // most)
    kept: list[tuple[float, Verdict]] = []
    for start in range(0, len(track), size):
        part = range(start, min(start + size, len(track)))
        peak = max(part, key=lambda i: track[i][1].e or 0.0)
        kept += [track[i] for i in sorted({peak, part[-1]})]
    return kept


def points(found: Sequence[Look]) -> list[Point]:
    """What each version answered between one look and the next, oldest first."""
    counted = [(x, c) for x in found if (c := x.counts)]
    # Copies come in after the shadow was rolled back, too: they have no user there either.
    served = any(x.event.phase in ("canary", "promote") for x in found)
    shown = []
    for (before, old), (now, new) in pairwise(counted):
        anew = old.epoch != new.epoch
        shown.append(
            Point(
                began=before.time,
                time=now.time,
                # What came in between the looks came under the earlier one's weight.
                weight=before.event.weight,
                phase=before.event.phase if served else "shadow",
                stable=_since(old.stable, new.stable, anew),
                candidate=_since(old.candidate, new.candidate, anew),
                replayed=_since(old.replayed, new.replayed, anew),
            )
        )
    return shown


def merged(arms: Sequence[Arm]) -> Arm:
    """Their sum; without scores."""
    latency: dict[float, int] = {}
    for arm in arms:
        for edge, count in arm.latency.items():
            latency[edge] = latency.get(edge, 0) + count
    return Arm(
        requests=sum(a.requests for a in arms),
        failures=sum(a.failures for a in arms),
        latency=latency,
    )


def _place(event: ReleaseEvent) -> tuple[str, int]:
    return event.phase, event.weight


def _counted(shown: Sequence[Point]) -> tuple[int, int]:
    """Requests and failures of live traffic; copies and replayed requests had no user."""
    arms = [a for p in shown for a in ([p.stable, p.candidate] if p.live else [p.stable])]
    own = [p.replayed for p in shown]
    return (
        sum(a.requests for a in arms) - sum(a.requests for a in own),
        sum(a.failures for a in arms) - sum(a.failures for a in own),
    )


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
