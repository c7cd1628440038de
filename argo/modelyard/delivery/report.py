"""The evidence report: every release of an environment on one self-contained page."""

import html
import io
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from modelyard.delivery.history import Point, Summary, latency, points, summary
from modelyard.delivery.processes import write_atomically
from modelyard.documents import ReleaseEvent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STABLE, _CANDIDATE, _GREY = "#2b6cb0", "#dd6b20", "#718096"
_COLOURS = {"promoted": "#2f855a", "bootstrapped": "#2f855a", "rolled_back": "#c53030"}
_UNDECIDED = "#b7791f"
_BINS = 60

Figure = Callable[[list[Point], str], float]
"""of some neighbouring points and an arm"""


def write_report(
    path: Path, model: str, environment: str, releases: Sequence[Sequence[ReleaseEvent]]
) -> None:
    """Write the page, newest release first."""
    summaries = [summary(events) for events in releases]
    rows = "".join(_row(s, events[0].time) for s, events in zip(summaries, releases, strict=True))
    sections = "".join(
        _section(s, events) for s, events in reversed(list(zip(summaries, releases, strict=True)))
    )
    title = html.escape(f"Releases of {model} to {environment}")
    empty = "" if releases else "<p>No release yet.</p>"
    write_atomically(
        path,
        f"<!doctype html>\n<html lang='en'><head><meta charset='utf-8'><title>{title}</title>"
        f"<meta name='viewport' content='width=device-width'><style>{_STYLE}</style></head><body>"
        f"<h1>{title}</h1>{empty}<table><thead><tr><th>version<th>began (UTC)<th>decision<th>why"
        "<th class='n'>seconds<th class='n'>requests<th class='n'>errors users saw"
        f"<th class='n'>stable down</tr></thead><tbody>{rows}</tbody></table>{sections}"
        "</body></html>\n",
    )


def _row(s: Summary, began: float) -> str:
    return (
        f"<tr><td><a href='#{html.escape(s.release)}'>v{s.version}</a>"
        f"<td>{datetime.fromtimestamp(began, UTC):%Y-%m-%d %H:%M:%S}<td>{_badge(s)}"
        f"<td>{html.escape(s.reason)}<td class='n'>{s.seconds:.1f}<td class='n'>{s.requests:,}"
        f"<td class='n'>{s.failed_requests:,}<td class='n'>{s.stable_downtime_s:g} s</tr>"
    )


def _section(s: Summary, events: Sequence[ReleaseEvent]) -> str:
    against = f" against v{s.stable}" if s.stable else ""
    shown = points(events)
    picture = _picture(s, events, shown) if len(shown) > 1 else "<p class='note'>No traffic.</p>"
    steps = "".join(
        f"<tr><td class='n'>{e.time - events[0].time:.1f} s<td>{e.decision or e.phase}"
        f"<td class='n'>{e.weight} %<td>{html.escape(e.reason)}</tr>"
        for before, e in zip([None, *events], events, strict=False)
        if before is None or (e.phase, e.weight) != (before.phase, before.weight)
    )
    return (
        f"<section id='{html.escape(s.release)}'><h2>v{s.version}{against} {_badge(s)}</h2>"
        f"<p>{html.escape(s.reason)}</p>{picture}"
        f"<details><summary>Steps</summary><table><tbody>{steps}</tbody></table></details>"
        "</section>"
    )


def _badge(s: Summary) -> str:
    colour = _COLOURS.get(s.decision or "", _UNDECIDED)
    text = (s.decision or "unfinished").replace("_", " ")
    return f"<span class='badge' style='background:{colour}'>{text}</span>"


def _picture(s: Summary, events: Sequence[ReleaseEvent], shown: Sequence[Point]) -> str:
    """Weight, requests, failures and latency over time, as inline SVG."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    began, ended = events[0].time, events[-1].time
    groups = _groups(shown, ended - began)
    style = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False,
             "axes.edgecolor": _GREY, "axes.titlesize": 10, "axes.titlelocation": "left",
             "svg.hashsalt": s.release}  # fmt: skip
    with plt.rc_context(style):
        figure, axes = plt.subplots(4, 1, figsize=(9.5, 7.6), sharex=True, layout="constrained")
        times = [e.time - began for e in events]
        axes[0].step(times, [e.weight for e in events], where="post", color=_CANDIDATE, lw=2)
        axes[0].fill_between(times, [e.weight for e in events], step="post", color=_CANDIDATE,
                             alpha=0.15)  # fmt: skip
        axes[0].set(title="Live traffic to the candidate, %", ylim=(0, 105))
        _lines(axes[1], groups, _rate)
        axes[1].set(title="Answers a second (in shadow the candidate answers copies)")
        _lines(axes[2], groups, _failures)
        axes[2].set(title="Failed, %", ylim=(-2, 105))
        _lines(axes[3], groups, _p95)
        axes[3].set(title="Latency p95, ms", xlabel="seconds since the release began")
        for ax in axes:
            _moments(ax, events, began, named=ax is axes[0])
            ax.grid(axis="y", color="#edf2f7")
            ax.set_axisbelow(True)
        axes[1].legend(loc="upper left", frameon=False, ncols=2)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
        plt.close(figure)
    return "<figure>" + buffer.getvalue()[buffer.getvalue().index("<svg") :] + "</figure>"


def _groups(shown: Sequence[Point], seconds: float) -> list[list[Point]]:
    """Neighbouring points together, so that a long release has no more than 60 of them."""
    width = max(0.5, seconds / _BINS)
    groups: dict[int, list[Point]] = {}
    for point in shown:
        groups.setdefault(int(point.time / width), []).append(point)
    return list(groups.values())


def _lines(ax: "Axes", groups: list[list[Point]], figure: Figure) -> None:
    for arm, colour in {"stable": _STABLE, "candidate": _CANDIDATE}.items():
        xs = [group[-1].time for group in groups]
        ys = [figure(group, arm) for group in groups]
        ax.plot(xs, ys, color=colour, lw=1.8, marker=".", ms=4, label=arm)
    ax.set_ylim(bottom=min(0, ax.get_ylim()[0]))


def _rate(group: list[Point], arm: str) -> float:
    seconds = group[-1].time - group[0].began
    return sum(getattr(p, arm).requests for p in group) / seconds if seconds > 0 else float("nan")


def _failures(group: list[Point], arm: str) -> float:
    requests = sum(getattr(p, arm).requests for p in group)
    failed = sum(getattr(p, arm).failures for p in group)
    return 100 * failed / requests if requests else float("nan")


def _p95(group: list[Point], arm: str) -> float:
    found = latency(group, arm, 0.95)
    return float("nan") if found is None else found


def _moments(ax: "Axes", events: Sequence[ReleaseEvent], began: float, named: bool) -> None:
    """A line where a phase begins, and a strong one at the decision."""
    before = None
    for event in events:
        moment = event.time - began
        decisive = event.phase in ("rollback", "done")
        if event.phase != before and event.phase != "preflight" and before != "rollback":
            colour = _COLOURS.get(event.decision or "", "#c53030" if decisive else _GREY)
            ax.axvline(moment, color=colour, lw=1.6 if decisive else 0.8,
                       ls="-" if decisive else ":")  # fmt: skip
            # `done` follows what it ends at once: one name is enough.
            if named and event.phase != "done":
                ax.annotate(event.phase, (moment, 1.0), xycoords=("data", "axes fraction"),
                            xytext=(3, -9), textcoords="offset points", color=colour,
                            fontsize=8)  # fmt: skip
        before = event.phase


_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1a202c;max-width:66rem;margin:2rem auto;
padding:0 1rem}
h1{font-size:1.6rem;margin-bottom:1rem}
h2{font-size:1.2rem;margin:0 0 .3rem}
table{border-collapse:collapse;width:100%;font-size:.9rem}
th,td{text-align:left;padding:.4rem .7rem;border-bottom:1px solid #e2e8f0;vertical-align:top}
th{color:#4a5568;font-weight:600}
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
section{margin:1.6rem 0;padding:1.2rem 1.4rem;border:1px solid #e2e8f0;border-radius:.6rem}
section p{margin:.2rem 0 .8rem;color:#4a5568;overflow-wrap:anywhere;white-space:pre-line}
td{overflow-wrap:anywhere}
.badge{color:#fff;border-radius:.8rem;padding:.1rem .6rem;font-size:.8rem;font-weight:600;
white-space:nowrap}
figure{margin:0}
figure svg{width:100%;height:auto}
a{color:#2b6cb0;text-decoration:none}
summary{cursor:pointer;color:#4a5568;margin-top:.6rem}
"""
