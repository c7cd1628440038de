"""Figures, verdicts and events in words, for the terminal and the report alike."""

import math

from modelyard.delivery.gates.trial import Verdict
from modelyard.delivery.gates.verdicts import spanning
from modelyard.delivery.release.state import State
from modelyard.documents import ReleaseEvent

GATES = {
    "errors": (
        "Errors",
        "Does the candidate fail more often than stable?",
        "The candidate's failure rate less stable's, in percentage points.",
    ),
    "latency": (
        "Latency",
        "Is the candidate slower than the policy allows?",
        "The candidate's slow answers as a multiple of stable's.",
    ),
    "predictions": (
        "Predictions",
        "How often do the two versions answer the same request differently?",
        "The share of requests that the two versions answered differently.",
    ),
    "scores": (
        "Scores",
        "Do the two versions' scores have the same distribution?",
        "The largest distance between the two cumulative distributions.",
    ),
}
"""of each kind of gate: its name, what it asks, how to read its picture"""


def number(value: float | None) -> str:
    """An e-value or its threshold."""
    if value is None:
        return ""
    return f"{value:.2g}" if value < 10 else f"{value:,.0f}" if value < 1e6 else f"{value:.0e}"


def duration(seconds: float) -> str:
    """`12.3 s`, `4 min 05 s`, `2 h 10 min`."""
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def share(value: float) -> str:
    """Per cent with as many digits as tell something."""
    percent = 100 * value
    return f"{percent:.{0 if abs(percent) >= 9.95 else 1 if abs(percent) >= 0.95 else 2}f} %"


def figure(value: float | None, unit: str) -> str:
    """An estimate, bound or limit of a gate."""
    if value is None or not math.isfinite(value):
        return "?"
    return share(value) if unit == "share" else f"{value:.2f}×"


def seen(verdict: Verdict) -> str:
    """A gate's estimate."""
    return "none yet" if verdict.estimate is None else figure(verdict.estimate, verdict.unit)


def limit(verdict: Verdict) -> str:
    """A gate's limit; empty where it is not known before something was measured."""
    return "" if verdict.limit is None else figure(verdict.limit, verdict.unit)


def against(verdict: Verdict) -> str:
    """The e-value against a candidate; empty where it says nothing, since nothing was measured."""
    return "" if verdict.estimate is None and verdict.e == 1 else number(verdict.e)


def weighed(verdict: Verdict) -> str:
    """`1.2 of 800`: the e-value and what it takes."""
    found = against(verdict)
    return f"{found} of {number(verdict.threshold)}" if found and verdict.threshold else found


def interval(verdict: Verdict) -> str:
    """`-0.4 % to 0.9 %`, `up to 0.9 %`, `over 3.0 %`; empty where there is no bound yet."""
    lower, upper = bounds(verdict)
    if lower is None and upper is None:
        return ""
    if lower is None:
        return f"up to {figure(upper, verdict.unit)}"
    if upper is None:
        return f"over {figure(lower, verdict.unit)}"
    return f"{figure(lower, verdict.unit)} to {figure(upper, verdict.unit)}"


def bounds(verdict: Verdict) -> tuple[float | None, float | None]:
    """Lower and upper; None where it is one that always holds."""
    lowest = 0.0 if verdict.unit == "ratio" or not _differs(verdict) else -1.0
    highest = math.inf if verdict.unit == "ratio" else 1.0
    lower = lowest if verdict.lower is None else verdict.lower
    upper = highest if verdict.upper is None else verdict.upper
    lower, upper = spanning(lower, upper, verdict.estimate)
    return None if lower <= lowest else lower, None if upper >= highest else upper


def _differs(verdict: Verdict) -> bool:
    """Whether it is a difference, which may be negative."""
    return verdict.gate == "errors"


def standing(verdict: Verdict) -> str:
    """What an outcome means, and how far it is where it is open."""
    match verdict.outcome:
        case "pass":
            return "proven within its limit"
        case "fail":
            return "beyond its limit"
        case _ if verdict.more:
            return f"open: about {verdict.more:,} more requests"
        case _:
            return "open"


def happened(event: ReleaseEvent | State) -> str:
    """What an event that moves a release (or the state after it) does to users."""
    ours, theirs = f"v{event.candidate}", f"v{event.stable}"
    match event.phase:
        case "preflight":
            return "release began"
        case "deploy":
            return f"servers of {ours} start"
        case "shadow":
            return f"shadow: {ours} answers copies"
        case "canary":
            return f"{event.weight} % of the users get {ours}"
        case "promote":
            return f"all users get {ours}"
        case "rollback":
            if event.stable is None:
                return f"nobody is served: {ours} was the first version"
            return f"all users get {theirs} again"
        case _:
            return _ENDED[event.decision or "held"].format(ours=ours, weight=event.weight)


_ENDED = {
    "bootstrapped": "{ours} is the stable version, the first one",
    "promoted": "{ours} is the stable version",
    "rolled_back": "{ours} is stopped",
    "held": "held undecided; {weight} % of the users get {ours}",
}
