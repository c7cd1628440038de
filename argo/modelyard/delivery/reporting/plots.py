"""The pictures of a release: inline SVG, one card each, all on the same axis of time.

No text of a record's gets into the SVG but numbers; titles and captions are the page's.
"""

import io
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modelyard.delivery.evidence.counts import Arm
from modelyard.delivery.gates.trial import Verdict
from modelyard.delivery.reporting.format import bounds
from modelyard.delivery.reporting.summary import Look, Point, merged, turns
from modelyard.statistics.histograms import quantile

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STABLE, CANDIDATE, LIMIT = "#2b6cb0", "#dd6b20", "#c53030"
GOOD, UNDECIDED, GREY = "#2f855a", "#b7791f", "#718096"
_PHASES = {"deploy": "#f7fafc", "shadow": "#ebf0f7", "rollback": "#fdecec"}
_BINS = 60
_MOST_TURNS = 200
_ENOUGH = 20
"""requests that a share or a quantile is shown for"""
_STYLE: dict[str, Any] = {
    "font.size": 9.5, "axes.spines.top": False, "axes.spines.right": False,
    "axes.edgecolor": GREY, "axes.labelcolor": "#4a5568", "xtick.color": "#4a5568",
    "ytick.color": "#4a5568", "svg.fonttype": "none", "legend.frameon": False,
    "legend.fontsize": 9, "axes.grid": True, "axes.grid.axis": "y", "grid.color": "#e2e8f0",
    "axes.axisbelow": True, "lines.linewidth": 1.8,
}  # fmt: skip

Track = Sequence[tuple[float, Verdict]]


@dataclass(frozen=True)
class Clock:
    """Seconds since a release began as what its axis counts."""

    seconds: float
    """of the whole release"""

    @property
    def unit(self) -> tuple[str, float]:
        """Its name, and how many seconds it has."""
        if self.seconds < 180:
            return "seconds", 1.0
        return ("minutes", 60.0) if self.seconds < 3 * 3600 else ("hours", 3600.0)

    def __call__(self, seconds: float) -> float:
        return seconds / self.unit[1]


class Pictures:
    """Of one release. Each method gives an `<svg>`."""

    def __init__(self, found: Sequence[Look], shown: Sequence[Point]) -> None:
        self._turns = turns(found)
        self._found = found
        self._shown = shown
        self._seconds = max(found[-1].time, 1e-3)
        self._clock = Clock(self._seconds)
        self._salt = found[0].event.release

    def weight(self) -> str:
        """Share of the users that the candidate answered."""
        with self._axes() as (ax, svg):
            every = -(-len(self._turns) // _MOST_TURNS)
            turned = [*self._turns[::every], self._turns[-1]]
            times = [self._clock(x.time) for x in turned]
            weights = [x.event.weight for x in turned]
            times, weights = [*times, self._clock(self._seconds)], [*weights, weights[-1]]
            ax.step(times, weights, where="post", color=CANDIDATE, lw=2)
            ax.fill_between(times, weights, step="post", color=CANDIDATE, alpha=0.18, lw=0)
            ax.set(ylim=(0, 104), yticks=(0, 25, 50, 75, 100))
            self._name_phases(ax)
        return svg()

    def rate(self) -> str:
        """Answers a second of each version."""
        with self._axes() as (ax, svg):
            for arm, colour in _ARMS.items():
                bins = _bins(self._shown, self._seconds)
                ys = [
                    sum(getattr(p, arm).requests for p in part) / (part[-1].time - part[0].began)
                    for part in bins
                ]
                ax.plot([self._clock(part[-1].time) for part in bins], ys, color=colour, label=arm)
            ax.set_ylim(bottom=0)
            _legend(ax)
        return svg()

    def failures(self) -> str:
        """Share of each version's answers that failed."""
        with self._axes() as (ax, svg):
            highest = 0.0
            for arm, colour in _ARMS.items():
                parts = list(_enough(_bins(self._shown, self._seconds), arm))
                ys = [100 * a.failures / a.requests for _, a in parts]
                xs = [self._clock(time) for time, _ in parts]
                ax.plot(xs, ys, color=colour, marker=".", ms=5, label=arm)
                highest = max([highest, *ys])
            ax.set_ylim(-0.03 * max(highest, 1), max(1.0, 1.12 * highest))
            _legend(ax)
        return svg()

    def harm(self, budget: float | None) -> str:
        """Users' requests that the candidate failed, and as many as stable would have failed."""
        with self._axes() as (ax, svg):
            times, failed, expected = [0.0], [0.0], [0.0]
            stable = merged([p.stable for p in self._shown])
            rate = stable.failures / stable.requests if stable.requests else 0.0
            for part in _bins(self._shown, self._seconds):
                live = merged([p.candidate for p in part if p.live])
                times.append(part[-1].time)
                failed.append(failed[-1] + live.failures)
                expected.append(expected[-1] + live.requests * rate)
            xs = [self._clock(t) for t in times]
            ax.step(xs, failed, where="post", color=CANDIDATE, label="failed by the candidate")
            ax.step(xs, expected, where="post", color=STABLE, label="expected of stable")
            if budget is not None:
                allowed = [e + budget for e in expected]
                ax.step(xs, allowed, where="post", color=LIMIT, ls="--", lw=1.4,
                        label="the budget")  # fmt: skip
            ax.set_ylim(bottom=0, top=max(5.0, 1.15 * max(failed), 1.3 * (budget or 0)))
            _legend(ax)
        return svg()

    def latency(self, q: float) -> str:
        """A quantile of each version's latency with the band that its counts leave open."""
        with self._axes() as (ax, svg):
            for arm, colour in _ARMS.items():
                parts = list(_enough(_bins(self._shown, self._seconds), arm))
                found = [(t, *_quantile_band(a.latency, q)) for t, a in parts if a.latency]
                xs = [self._clock(t) for t, *_ in found]
                ax.plot(xs, [m for _, m, _, _ in found], color=colour, label=arm)
                lower, upper = [lo for *_, lo, _ in found], [up for *_, up in found]
                ax.fill_between(xs, lower, upper, color=colour, alpha=0.15, lw=0)
            ax.set_ylim(bottom=0)
            _legend(ax)
        return svg()

    def bounds(self, track: Track) -> str:
        """A gate's estimate with its confidence bounds, against the limit."""
        scale = 100.0 if track[-1][1].unit == "share" else 1.0
        with self._axes() as (ax, svg):
            xs = [self._clock(t) for t, _ in track]
            low, high = _window([v for _, v in track], scale)
            both = [bounds(v) for _, v in track]
            lower = [low if y is None else y * scale for y, _ in both]
            upper = [high if y is None else y * scale for _, y in both]
            ax.fill_between(xs, lower, upper, color=CANDIDATE, alpha=0.18, lw=0,
                            label="confidence bounds")  # fmt: skip
            ys = [math.nan if v.estimate is None else v.estimate * scale for _, v in track]
            ax.plot(xs, ys, color=CANDIDATE, label="estimate")
            limits = [math.nan if v.limit is None else v.limit * scale for _, v in track]
            ax.plot(xs, limits, color=LIMIT, ls="--", lw=1.4, label="limit")
            ax.fill_between(xs, limits, high, color=LIMIT, alpha=0.06, lw=0)
            ax.set_ylim(low, high)
            _legend(ax)
        return svg()

    def evidence(self, track: Track) -> str:
        """A gate's e-value on a logarithmic axis, against what it takes to roll back."""
        with self._axes() as (ax, svg):
            threshold = next((v.threshold for _, v in reversed(track) if v.threshold), None)
            ceiling = 30 * (threshold or 100.0)
            shown = [(t, min(max(v.e, 1e-3), ceiling)) for t, v in track if v.e is not None]
            xs, ys = [self._clock(t) for t, _ in shown], [y for _, y in shown]
            ax.plot(xs, ys, color=CANDIDATE, label="e-value")
            if threshold:
                ax.axhline(threshold, color=LIMIT, ls="--", lw=1.4, label="rollback")
                ax.axhspan(threshold, ceiling, color=LIMIT, alpha=0.06, lw=0)
                crossed = next((p for p in shown if p[1] >= threshold), None)
                if crossed:
                    ax.plot(self._clock(crossed[0]), crossed[1], "o", color=LIMIT, ms=7, mec="w",
                            clip_on=False)  # fmt: skip
            ax.set_yscale("log")
            ax.set_ylim(min([0.1, *ys]) / 1.5, ceiling)
            _ticks(ax)
            _legend(ax)
        return svg()

    @contextmanager
    def _axes(self) -> Iterator[tuple["Axes", Callable[[], str]]]:
        """Axes on this release's time, with its phases behind; the SVG once they are drawn."""
        from matplotlib import rc_context
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure

        with rc_context({**_STYLE, "svg.hashsalt": self._salt}):
            figure = Figure(figsize=(5.2, 2.5))
            FigureCanvasSVG(figure)
            ax = figure.add_axes((0.105, 0.17, 0.875, 0.71))
            yield ax, lambda: _svg(figure, self._salt)
            self._phases(ax)
            end = self._clock(self._seconds)
            ax.set_xlim(-0.01 * end, 1.01 * end)
            ax.set_xlabel(f"{self._clock.unit[0]} since the release began", labelpad=2)

    def _phases(self, ax: "Axes") -> None:
        """What went on behind the curves: a shade a phase, a line where a weight began."""
        for now, after in self._spans():
            colour = _PHASES.get(now.event.phase)
            begin, end = self._clock(now.time), self._clock(after)
            if colour:
                ax.axvspan(begin, end, color=colour, lw=0, zorder=0)
        for x in self._turns:
            if x.event.phase in ("rollback", "done"):
                last, moment = self._turns[-1], self._clock(x.time)
                ax.axvline(moment, color=decision_colour(last), lw=1.5)
                name = (last.event.decision or "rollback").replace("_", " ")
                ax.annotate(name, (moment, 0.97), xycoords=("data", "axes fraction"),
                            xytext=(-4, 0), textcoords="offset points", ha="right", va="top",
                            fontsize=8.5, color=decision_colour(last))  # fmt: skip
                break

    def _spans(self) -> list[tuple[Look, float]]:
        ends = [x.time for x in self._turns[1:]] + [self._seconds]
        return list(zip(self._turns, ends, strict=True))

    def _name_phases(self, ax: "Axes") -> None:
        """Names above, where there is room; a run of canary weights has one."""
        spans: list[tuple[str, float, float]] = []
        for look, end in self._spans():
            name = look.event.decision or look.event.phase
            if spans and spans[-1][0] == name:
                spans[-1] = (name, spans[-1][1], end)
            else:
                spans.append((name, look.time, end))
        for name, begin, end in spans:
            if end - begin > 0.012 * len(name) * self._seconds:
                middle = self._clock((begin + end) / 2)
                ax.annotate(name, (middle, 0.97), xycoords=("data", "axes fraction"), ha="center",
                            va="top", fontsize=8.5, color=GREY)  # fmt: skip


_ARMS = {"stable": STABLE, "candidate": CANDIDATE}


def decision_colour(look: Look) -> str:
    """Of the last look of a release."""
    match look.event.decision:
        case "promoted" | "bootstrapped":
            return GOOD
        case "rolled_back":
            return LIMIT
        case _:
            return UNDECIDED


def _svg(figure: Any, salt: str) -> str:
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context({**_STYLE, "svg.hashsalt": salt}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = buffer.getvalue()
    text = re.sub(
        r"<metadata>.*?</metadata>|<!--.*?-->", "", text[text.index("<svg") :], flags=re.S
    )
    return re.sub(r"\n\s*", "\n", text)


def _bins(shown: Sequence[Point], seconds: float) -> list[list[Point]]:
    """Neighbouring points together, so that a long release has no more than 60 of them."""
    width = max(0.5, seconds / _BINS)
    groups: dict[int, list[Point]] = {}
    for point in shown:
        if point.time > point.began:
            groups.setdefault(int(point.time / width), []).append(point)
    return list(groups.values())


def _enough(bins: list[list[Point]], arm: str) -> Iterator[tuple[float, Arm]]:
    """Times and sums of an arm, over as many bins as a share needs; the rest at the end."""
    waiting: list[Arm] = []
    for part in bins:
        waiting += [getattr(p, arm) for p in part]
        total = merged(waiting)
        last = part is bins[-1] and total.requests
        if total.requests >= _ENOUGH or last:
            yield part[-1].time, total
            waiting = []


def _quantile_band(latency: dict[float, int], q: float) -> tuple[float, float, float]:
    """The quantile, ms, and the bounds of its 95 % interval by order statistics."""
    n = sum(latency.values())
    doubt = 1.96 * math.sqrt(q * (1 - q) / n) if n else 0.0
    shares = (q, max(0.0, q - doubt), min(1.0, q + doubt))
    middle, lower, upper = (quantile(latency, share) or math.nan for share in shares)
    return middle, lower, upper


def _window(verdicts: Sequence[Verdict], scale: float) -> tuple[float, float]:
    """The part of the axis that matters: limit, estimates, and bounds once they are narrow."""
    late = verdicts[len(verdicts) // 2 :]
    values = [v.limit for v in late] + [v.estimate for v in late]
    values += bounds(late[-1])
    known = [v * scale for v in values if v is not None and math.isfinite(v)]
    low, high = min([0.0, *known]), max([0.0, *known])
    room = 0.25 * (high - low or 1.0)
    return low - room * (low < 0), high + room


def _ticks(ax: "Axes") -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    ax.yaxis.set_major_locator(LogLocator(numticks=6))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}" if y < 1e5 else f"{y:.0e}"))


def _legend(ax: "Axes") -> None:
    ax.legend(loc="lower left", bbox_to_anchor=(-0.02, 0.98), ncols=3, borderpad=0.1,
              handlelength=1.4, columnspacing=1.2)  # fmt: skip
