"""What serves, what was released, and where an unfinished release is, for people and as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from modelyard.delivery.evidence.looks import Health
from modelyard.delivery.gates.trial import Verdict
from modelyard.delivery.release.shares import told
from modelyard.delivery.reporting.format import duration
from modelyard.delivery.reporting.summary import (
    Summary,
    looks,
    newest_verdicts,
    stable_down,
    summed,
    turns,
)
from modelyard.delivery.reporting.terminal import gates
from modelyard.documents import ReleaseEvent

_ENDS = {"promoted": "green", "bootstrapped": "green", "rolled_back": "red", None: "yellow"}


@dataclass(frozen=True)
class Unfinished:
    """A release that is not decided yet, at its newest look."""

    release: str
    version: int
    phase: str
    weight: int
    since: float
    """when this phase or weight began, s since the epoch"""
    seen: float
    """when the newest look was, s since the epoch"""
    reason: str
    """what it waits for"""
    verdicts: tuple[Verdict, ...]


@dataclass(frozen=True)
class Status:
    """Of an environment."""

    environment: str
    stable: int | None
    servers: Mapping[int, Health]
    serving: Mapping[int, int]
    """version → weight, above 0, of those that get users by the route"""
    envoy: Health | None
    """None on Kubernetes"""
    url: str | None
    """where users call the model; None on Kubernetes"""
    releases: tuple[Summary, ...]
    unfinished: Unfinished | None
    unreadable: str | None = None
    """why nothing is said of releases: a record was edited, so that stable is not known"""

    def document(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "environment": self.environment,
            "stable": self.stable,
            "servers": {str(v): health.status for v, health in self.servers.items()},
            "serving": {str(v): weight for v, weight in self.serving.items()},
            "down": self.down(),
            "envoy": self.envoy.status if self.envoy else None,
            "unfinished": asdict(self.unfinished) if self.unfinished else None,
            "releases": [asdict(s) for s in self.releases],
            "unreadable": self.unreadable,
        }

    def down(self) -> list[str]:
        """What does not serve although it should, each with what to do."""
        found = []
        if self.stable is not None and self.envoy and self.envoy.status != "ready":
            found.append(f"users: no answer: {self.envoy.detail}\n{_AGAIN}")
        wanted = [self.stable, self.unfinished.version if self.unfinished else None]
        for version in dict.fromkeys(v for v in wanted if v is not None):
            health = self.servers.get(version, _ABSENT)
            if health.status in ("absent", "failed") and not self._not_yet(version):
                found.append(f"version {version} does not serve: {health.detail}\n{_AGAIN}")
        return found

    def _not_yet(self, version: int) -> bool:
        """Whether its servers are to be started only."""
        x = self.unfinished
        return x is not None and x.version == version and x.phase in ("preflight", "deploy")


_ABSENT = Health(status="absent", detail="it has no server")
_AGAIN = "`modelyard release run` starts it again; of the stable version it does nothing more"


def status_of(
    environment: str,
    releases: Sequence[Sequence[ReleaseEvent]],
    servers: Mapping[int, Health],
    envoy: Health | None,
    url: str | None,
    serving: Mapping[int, int] = MappingProxyType({}),
    unreadable: str | None = None,
) -> Status:
    """Of all records of an environment, oldest release first, and of what runs."""
    newest = releases[-1][-1] if releases else None
    return Status(
        environment=environment,
        stable=newest.stable if newest else None,
        servers=servers,
        serving=serving,
        envoy=envoy,
        url=url,
        releases=tuple(summed(looks(events)) for events in releases),
        unfinished=_unfinished(releases[-1]) if newest and newest.decision is None else None,
        unreadable=unreadable,
    )


def _unfinished(events: Sequence[ReleaseEvent]) -> Unfinished:
    found, last = looks(events), events[-1]
    return Unfinished(
        release=last.release,
        version=last.candidate,
        phase=last.phase,
        weight=last.weight,
        since=turns(found)[-1].event.time,
        seen=last.time,
        reason=last.reason,
        verdicts=newest_verdicts(found),
    )


def show(found: Status, console: Console, now: float) -> None:
    """Print it; `now`: s since the epoch."""
    if found.releases:
        console.print(table(found.releases))
    for problem in found.down():
        console.print(Text(f"DOWN: {problem}", style="bold red"), soft_wrap=True)
    if found.unfinished:
        _show_unfinished(found.unfinished, console, now)
    lines = ["stable: not known" if found.unreadable else f"stable: {found.stable or 'none'}"]
    if found.serving:
        lines.append(told(found.serving))
    lines += [f"version {v}: {health.status}" for v, health in found.servers.items()]
    if found.url and found.envoy and found.envoy.status == "ready":
        lines.append(f"users: {found.url}")
    console.print("\n".join(lines), markup=False, soft_wrap=True)


def _show_unfinished(x: Unfinished, console: Console, now: float) -> None:
    at = f" at {x.weight} % of the users" if x.phase == "canary" else ""
    console.print(
        Text(f"unfinished: version {x.version}, {x.phase}{at} for {duration(x.seen - x.since)}; "
             f"newest look {duration(max(0.0, now - x.seen))} ago", style="bold yellow"),
        soft_wrap=True,
    )  # fmt: skip
    console.print(Text(f"waits for: {x.reason}"), soft_wrap=True)
    if x.verdicts:
        console.print(gates(x.verdicts, console, console.width))


def table(found: Sequence[Summary]) -> Table:
    """A row a release, oldest first."""
    shown = Table()
    for name in ("version", "decision", "why"):
        shown.add_column(name, no_wrap=name != "why", overflow="fold")
    for name in ("took", "requests", "failed", "stable down"):
        shown.add_column(name, no_wrap=True, justify="right")
    for s in found:
        shown.add_row(
            str(s.version),
            Text(s.decision or "unfinished", style=_ENDS.get(s.decision, "yellow")),
            Text(s.reason),
            duration(s.seconds),
            f"{s.requests:,}",
            Text(f"{s.failed_requests:,}", style="red" if s.failed_requests else ""),
            stable_down(s),
        )
    return shown


def outcome(s: Summary) -> str:
    """How a release ended, in plain words; for the end of `release run`."""
    ends = {
        "bootstrapped": f"version {s.version} is bootstrapped: the first one, all users get it",
        "promoted": f"version {s.version} is promoted: all users get it",
        "rolled_back": f"version {s.version} is rolled back: all users get version {s.stable}",
        "held": f"version {s.version} is held: the evidence is inconclusive",
    }
    ends_as = ends[s.decision] if s.decision else f"version {s.version} is not decided yet"
    if s.decision == "rolled_back" and s.stable is None:
        ends_as = f"version {s.version} is rolled back; nobody is served: it was the first version"
    elif s.decision == "rolled_back" and s.stable_silent:
        ends_as = f"version {s.version} is rolled back, but version {s.stable} does not answer"
    harm = f", {_of(s)} at version {s.version}" if s.failed_requests else ""
    down = f"down for {s.stable_downtime_s:g} s" if s.stable_downtime_s else "never down"
    stable = "" if s.stable is None else f"; stable was {down}"
    return (
        f"{ends_as}\nwhy: {s.reason} (after {duration(s.seconds)})\n"
        f"users: {s.requests:,} requests, {s.failed_requests:,} failed{harm}{stable}"
    )


def _of(s: Summary) -> str:
    every = s.candidate_failures >= s.failed_requests
    return "all of them" if every else f"{s.candidate_failures:,} of them"
