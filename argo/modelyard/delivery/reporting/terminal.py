"""What a person sees while a release runs."""

import time
from collections import deque
from collections.abc import Sequence
from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from modelyard.delivery.evidence.counts import Arm, Counts
from modelyard.delivery.evidence.looks import Evidence
from modelyard.delivery.gates.trial import Verdict
from modelyard.delivery.policy import Ramp
from modelyard.delivery.release.state import State, exposure
from modelyard.delivery.reporting.format import (
    bounds,
    duration,
    happened,
    interval,
    limit,
    seen,
    weighed,
)

_EVERY_S = 5.0
"""between two plain lines"""
_RATE_S = 5.0
"""over which requests a second are taken"""
_SCALE = 25
"""characters of a gate's picture"""
_COLOURS = {"pass": "green", "fail": "bold red", "wait": "yellow"}
_ENDS = {"promoted": "green", "bootstrapped": "green", "rolled_back": "red", "held": "yellow"}


class _Screen(Console):
    """A release does not end because nobody reads what it says any more."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


class Progress:
    """A line a step, with a live picture of where it is below, on a terminal; plain lines
    elsewhere."""

    def __init__(self, title: str, stream: TextIO) -> None:
        self._console = _Screen(file=stream, highlight=False)
        self._title = title
        self._told = ""
        self._began = time.monotonic()
        self._place: tuple[str, int] | None = None
        self._printed = 0.0
        self._seen: deque[Counts] = deque()
        self._live = Live(console=self._console, refresh_per_second=8, transient=True)

    def __enter__(self) -> "Progress":
        self._console.print(self._title, markup=False, style="bold")
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def follow(self, state: State, evidence: Evidence) -> None:
        """One event more: where the release is now, and what that was decided by."""
        try:
            self._show(state, evidence)
        except OSError:  # the terminal is gone
            self._console.quiet = True

    def _show(self, state: State, evidence: Evidence) -> None:
        if evidence.counts:
            self._count(evidence.counts)
        # Under a ramp nearly every look has a weight of its own.
        place = (state.phase, 0 if _ramp(state) else state.weight)
        moved, self._place = self._place != place, place
        if moved:
            self._tell(state)
        if state.decision is not None:
            self._live.update("")
        elif self._console.is_terminal:
            self._live.update(self._picture(state, evidence))
        elif not moved and time.monotonic() - self._printed > _EVERY_S:
            self._printed = time.monotonic()
            line = plain(state, evidence, self._rates())
            self._console.print(f"{self._clock()}  {line}", markup=False, soft_wrap=True)

    def _tell(self, state: State) -> None:
        """What was decided, and why: these lines stay."""
        self._printed = time.monotonic()
        style = _ENDS.get(state.decision or "", "red" if state.phase == "rollback" else "")
        line = Text(f"{self._clock()}  ").append(happened(state), style=style)
        if state.reason != self._told:
            line.append(f": {state.reason}")
        self._told = state.reason
        self._console.print(line, soft_wrap=not self._console.is_terminal)

    def _clock(self) -> str:
        return f"{duration(time.monotonic() - self._began):>12}"

    def _count(self, counts: Counts) -> None:
        if self._seen and self._seen[-1].epoch != counts.epoch:
            self._seen.clear()
        self._seen.append(counts)
        while len(self._seen) > 2 and counts.time - self._seen[1].time >= _RATE_S:
            self._seen.popleft()

    def _rates(self) -> tuple[float, float]:
        """Answers a second of stable and of the candidate."""
        if len(self._seen) < 2 or self._seen[-1].time <= self._seen[0].time:
            return 0.0, 0.0
        old, new = self._seen[0], self._seen[-1]
        seconds = new.time - old.time
        arms = ((old.stable, new.stable), (old.candidate, new.candidate))
        stable, candidate = (
            max(0, (n or Arm()).requests - (o or Arm()).requests) / seconds for o, n in arms
        )
        return stable, candidate

    def _picture(self, state: State, evidence: Evidence) -> RenderableType:
        elapsed = duration(max(0.0, evidence.time - state.since))
        weight = f", {state.weight} % of the users" if state.phase == "canary" else ""
        parts: list[RenderableType] = []
        if state.phase in ("shadow", "canary"):
            parts.append(self._arms(state, evidence))
        if found := verdicts(state):
            parts.append(gates(found, self._console, self._console.width - 4))
        if budget := spent(state):
            parts.append(Text(budget))
        if state.reason != self._told:
            parts.append(Text(state.reason, style="italic"))
        title = f"{state.phase}{weight}, {elapsed}"
        return Panel(Group(*parts), title=title, title_align="left", border_style="dim")

    def _arms(self, state: State, evidence: Evidence) -> Table:
        table = Table.grid(padding=(0, 2))
        for _ in range(4):
            table.add_column(no_wrap=True)
        stable, candidate = _exposure(state, evidence)
        rates = self._rates()
        rows = ((f"v{state.stable} (stable)", stable, rates[0]),
                (f"v{state.candidate} (candidate)", candidate, rates[1]))  # fmt: skip
        for name, arm, rate in rows:
            style = "red" if arm and arm.failures else ""
            requests, a_second, failed = (*_answers(arm, rate), "", "")[:3]
            table.add_row(name, requests, a_second, Text(failed, style=style))
        return table


def gates(found: Sequence[Verdict], console: Console, width: int) -> Table:
    """A row a gate: estimate and bounds against the limit, e-value against its threshold.

    Columns are left out, the last ones of `_COLUMNS` first, until the rest fits into `width`
    characters.
    """
    for columns in range(len(_COLUMNS), 2, -1):
        shown = [name for name in _ORDER if name in _COLUMNS[:columns]]
        table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, header_style="dim")
        for name in shown:
            table.add_column(name, overflow="fold")
        for v in found:
            cells = _cells(v, console.encoding.startswith("utf"))
            table.add_row(*(Text(cells[name], style=_style(name, v)) for name in shown))
        if console.measure(table).maximum <= width:
            break
    return table


def _cells(v: Verdict, signs: bool) -> dict[str, str]:
    cells = {
        "gate": v.gate,
        "now": _now(v),
        "": _scale(v, signs),
        "seen": seen(v),
        "bounds": interval(v),
        "limit": limit(v),
        "against it": weighed(v),
    }
    return cells if signs else {name: text.replace("×", "x") for name, text in cells.items()}


_ORDER = ("gate", "now", "", "seen", "bounds", "limit", "against it")
_COLUMNS = ("gate", "now", "seen", "limit", "bounds", "against it", "")


def _style(column: str, v: Verdict) -> str:
    return _COLOURS[v.outcome] if column == "now" else ""


def _now(v: Verdict) -> str:
    if v.outcome == "wait":
        return f"wait, ~{v.more:,} more" if v.more else "wait"
    return "FAIL" if v.outcome == "fail" else "pass"


def _scale(v: Verdict, signs: bool) -> str:
    """Where a gate is: `├───●──┤`, and its limit, two thirds from the left in every row."""
    if v.limit is None or v.estimate is None:
        return ""
    line, ends, dot, mark = ("─", "├┤", "●", "│") if signs else ("-", "[]", "o", "|")
    span = max(abs(v.limit - (1.0 if v.unit == "ratio" else 0.0)), 0.02)
    begin = v.limit - 2 * span

    def place(value: float) -> int:
        return min(_SCALE - 1, max(0, round((value - begin) / (3 * span) * (_SCALE - 1))))

    low, high = bounds(v)
    lower = place(begin if low is None else low)
    upper = place(begin + 3 * span if high is None else high)
    cells = [" "] * _SCALE
    cells[lower : upper + 1] = line * (upper + 1 - lower)
    cells[lower], cells[upper] = ends
    cells[place(v.limit)] = mark
    cells[place(v.estimate)] = dot
    return "".join(cells)


def plain(state: State, evidence: Evidence, rates: tuple[float, float]) -> str:
    """All of it in one line, for a log."""
    parts = [f"{state.phase} {state.weight} %" if state.phase == "canary" else state.phase]
    if state.phase in ("shadow", "canary"):
        both = zip((state.stable, state.candidate), _exposure(state, evidence), rates, strict=True)
        parts += [f"v{name} {', '.join(_answers(arm, rate))}" for name, arm, rate in both]
    parts += map(_gate, verdicts(state))
    return " | ".join([*parts, *filter(None, [spent(state)]), state.reason])


def _answers(arm: Arm | None, rate: float) -> tuple[str, ...]:
    """What a version answered at this weight: requests, how many a second, failures."""
    if arm is None:
        return ("not counted yet",)
    if not arm.requests:
        return ("no requests",)
    return f"{arm.requests:,} requests", f"{rate:.0f}/s", f"{arm.failures:,} failed"


def _gate(v: Verdict) -> str:
    """A gate for a log."""
    e = f", e {weighed(v)}" if weighed(v) else ""
    if v.estimate is None:
        return f"{v.gate}: {v.text}{e}"
    return f"{v.gate} {seen(v)} {interval(v)} of {limit(v)}{e}, {_now(v)}"


def verdicts(state: State) -> tuple[Verdict, ...]:
    """What the gates say now."""
    return state.tests.verdicts(state.phase == "shadow") if state.tests else ()


def spent(state: State) -> str:
    """How much of the harm budget is left; empty where there is none."""
    ramp = _ramp(state)
    if ramp is None or state.tests is None or state.phase != "canary":
        return ""
    left = min(ramp.harm_budget, max(0.0, ramp.harm_budget - state.tests.excess))
    return f"harm budget: {left:.1f} of {ramp.harm_budget:g} failed requests left"


def _ramp(state: State) -> Ramp | None:
    return state.policy.canary.ramp if state.policy else None


def _exposure(state: State, evidence: Evidence) -> tuple[Arm | None, Arm | None]:
    """What was counted at this weight so far; None before there is anything to compare with."""
    if evidence.counts is None or state.baseline is None:
        return None, None
    return exposure(state, evidence.counts)
