"""The evidence report: every release of an environment on one self-contained page.

The page is `templates/report.html.j2`; here is what it shows.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import ValidationError

from modelyard.delivery.evidence.counts import Pairs, Slice
from modelyard.delivery.gates.trial import Verdict
from modelyard.delivery.local.process_supervisor import write_atomically
from modelyard.delivery.policy import Policy
from modelyard.delivery.reporting.format import (
    GATES,
    against,
    duration,
    happened,
    interval,
    limit,
    number,
    seen,
    share,
    standing,
)
from modelyard.delivery.reporting.plots import Pictures, Track
from modelyard.delivery.reporting.summary import (
    Look,
    Point,
    Summary,
    looks,
    points,
    stable_down,
    summed,
    tracks,
    turns,
)
from modelyard.documents import ReleaseEvent, UserError
from modelyard.statistics.sequential import rate_bound

_MOST = 160
"""moments of a gate that a picture shows"""
_SLICES = 20
"""bars"""
_TURNS = 60
"""rows of the table of decisions"""


def write_report(
    path: Path,
    model: str,
    environment: str,
    releases: Sequence[Sequence[ReleaseEvent]],
    last: int = 10,
) -> None:
    """Write the page, newest release first; the newest `last` of them with their pictures.

    Raises:
        UserError: it can't be written, or a record was edited.
    """
    found = [looks(events) for events in releases]
    first = len(found) - last
    shown = [_Release(x, summed(x), pictured=n >= first) for n, x in enumerate(found)]
    text = (
        _templates()
        .get_template("report.html.j2")
        .render(model=model, environment=environment, releases=shown[::-1])
    )
    try:
        write_atomically(path, text)
    except OSError as error:
        raise UserError(f"can't write the report {path}: {error.strerror}") from None


@dataclass(frozen=True)
class _Release:
    """What the page shows of a release."""

    found: Sequence[Look]
    summary: Summary
    pictured: bool
    """else it has a line only"""

    @property
    def began(self) -> datetime:
        return datetime.fromtimestamp(self.found[0].event.time, UTC)

    @cached_property
    def points(self) -> Sequence[Point]:
        return points(self.found)

    @property
    def compared(self) -> bool:
        """Whether there was traffic of two versions."""
        return len(self.points) >= 2 and self.summary.stable is not None

    @cached_property
    def pictures(self) -> Pictures:
        return Pictures(self.found, self.points)

    @cached_property
    def policy(self) -> Policy | None:
        """None: not recorded, or by another version of modelyard."""
        try:
            return Policy.model_validate(self.found[0].event.policy or None)
        except ValidationError:
            return None

    @property
    def policy_text(self) -> str:
        policy = self.found[0].event.policy
        if policy is None:
            return ""
        return yaml.safe_dump(policy, sort_keys=False, default_flow_style=None)

    @property
    def harm_budget(self) -> float | None:
        ramp = self.policy.canary.ramp if self.policy else None
        return ramp.harm_budget if ramp else None

    @property
    def quantile(self) -> float:
        """Of the latency that is judged."""
        gate = self.policy.gates.latency if self.policy else None
        return gate.quantile if gate else 0.95

    @cached_property
    def gates(self) -> list[Track]:
        """Failed ones first; a slice is in the list of slices, and here only if it failed."""
        shown = [
            track
            for track in tracks(self.found, _MOST).values()
            if not track[-1][1].of_slice or _failed(track)
        ]
        return sorted(shown, key=lambda track: not _failed(track))

    @cached_property
    def pairs(self) -> Pairs:
        """The newest."""
        return next((c.pairs for x in reversed(self.found) if (c := x.counts) and c.pairs), Pairs())

    @cached_property
    def slices(self) -> "_Slices | None":
        gate = self.policy.gates.predictions if self.policy else None
        if self.policy is None or gate is None or not self.pairs.slices:
            return None
        outcomes = {
            v.gate.partition(" ")[2]: v.outcome
            for x in self.found
            for v in x.verdicts
            if v.of_slice
        }
        bars = [
            _Bar(name, each, outcomes.get(name) == "fail", self.policy.alpha)
            for name, each in self.pairs.slices.items()
            if each.requests
        ]
        whole = Slice(requests=self.pairs.requests, disagreement=self.pairs.disagreement)
        worst = sorted(bars, key=lambda bar: -bar.share)[:_SLICES]
        return _Slices(
            bars=[_Bar("all requests", whole, False, self.policy.alpha), *worst],
            left_out=len(bars) - len(worst),
            limit=gate.max_disagreement,
        )

    @cached_property
    def turns(self) -> list[Look]:
        """The looks at which something was decided."""
        return turns(self.found)

    @property
    def shown_turns(self) -> list[Look]:
        """The first and the last of them."""
        if len(self.turns) <= _TURNS:
            return self.turns
        return self.turns[: _TURNS // 2] + self.turns[-_TURNS // 2 :]


def _failed(track: Track) -> bool:
    return track[-1][1].outcome == "fail"


@dataclass(frozen=True)
class _Bar:
    """Disagreement of a slice with its bounds."""

    name: str
    pairs: Slice
    failed: bool
    alpha: float

    @property
    def requests(self) -> int:
        return self.pairs.requests

    @property
    def share(self) -> float:
        return self.pairs.disagreement / self.requests if self.requests else 0.0

    @property
    def bounds(self) -> tuple[float, float]:
        n, k = self.requests, min(self.pairs.disagreement, self.requests)
        return 1 - rate_bound(n, n - k, self.alpha), rate_bound(n, k, self.alpha)


@dataclass(frozen=True)
class _Slices:
    """Disagreement of all pairs, and of the slices that disagree most."""

    bars: Sequence[_Bar]
    left_out: int
    limit: float

    def percent(self, share: float) -> float:
        """Where a share lies on the bars' axis."""
        top = min(1.0, 1.1 * max([0.05, self.limit, *(bar.share for bar in self.bars)]))
        return 100 * min(1.0, share / top)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _scores(values: Iterable[float | None]) -> str:
    return " ".join("not a number" if v is None else f"{v:.4g}" for v in values)


def _gate_name(v: Verdict) -> str:
    kind, _, slice_name = v.gate.partition(" ")
    return GATES[kind][0] + (f", {slice_name}" if slice_name else "")


def _gate_help(v: Verdict) -> tuple[str, str, str]:
    return GATES[v.gate.partition(" ")[0]]


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _templates() -> Environment:
    found = Environment(
        loader=PackageLoader("modelyard.delivery.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for each in (against, duration, happened, interval, limit, number, seen, share, standing):
        found.filters[each.__name__] = each
    found.filters |= {
        "stable_down": stable_down,
        "count": "{:,}".format,
        "general": "{:g}".format,
        "digit": "{:.1f}".format,
        "plain": _text,
        "scores": _scores,
        "sentence": _sentence,
        "gate_name": _gate_name,
        "gate_help": _gate_help,
    }
    return found
