"""What the simulated releases show: a table for people, figures with their bounds."""

import re
from statistics import fmean, median
from typing import Any

from benchmarks.canary.outcome import Outcome
from benchmarks.canary.simulate import (
    LIVE_ONLY,
    NO_CHANGE,
    OURS,
    PEERS,
    SILENCE,
    TOOLS,
    VISIBLE,
    Results,
    policy,
)
from benchmarks.canary.traffic import Fault

Figures = dict[str, dict[str, Any]]

_FALSE = 0.01
"""share of releases without a fault that may be rolled back or end undecided"""
_MISSED = 0.01
"""share of faulty releases that may be promoted, whether or not a peer detects the fault"""
_HARM = 0.2
"""of the failed requests that the better of the peers that detect the fault lets through"""
_TIME = 0.5
"""of Flagger's time to 100 %"""


HEAD = (
    f"{'':32} {'':23} {'rolled':>7} {'undecided':>9} {'promoted':>8} {'seconds':>7} "
    f"{'exposed':>7} {'harm':>6} {'95 %':>5} {'most':>5}"
)


def line(fault: Fault, tool: str, results: Results) -> str:
    """Of the table, under `HEAD`."""
    done = results[fault.name, tool]
    rolled, undecided, promoted = (
        _share(done, decision) for decision in ("rolled_back", "inconclusive", "promoted")
    )
    harm = sorted(o.harm for o in done)
    blind = "  raised blindly" if any(o.blind for o in done) else ""
    return (
        f"{fault.name if tool == TOOLS[0] else '':32} {tool:23} "
        f"{rolled:7.1%} {undecided:9.1%} {promoted:8.1%} {median(o.seconds for o in done):7.0f} "
        f"{fmean(o.exposed for o in done):7.0f} {fmean(harm):6.1f} "
        f"{harm[int(0.95 * (len(harm) - 1))]:5} {harm[-1]:5}{blind}"
    )


def figures(results: Results) -> Figures:
    """What is bounded; every value is to be at most its bound."""
    found: Figures = {}
    for tool in OURS:
        arm = _key(tool.split(",")[1])
        good = results[NO_CHANGE.name, tool]
        flagger = median(o.seconds for o in results[NO_CHANGE.name, "Flagger"])
        values = {
            "false_rollbacks": (1 - _share(good, "promoted"), _FALSE),
            "time_over_flagger": (median(o.seconds for o in good) / flagger, _TIME),
            "raised_without_traffic": (_blind(results[SILENCE.name, tool]), 0.0),
        }
        for fault in (*VISIBLE, *LIVE_ONLY):
            values |= _against_peers(fault, tool, results)
        for name, (value, bound) in values.items():
            found[f"{name}_{arm}"] = _figure(value, bound)
    found |= _within_budget(results)
    return found


def _against_peers(fault: Fault, tool: str, results: Results) -> dict[str, tuple[float, float]]:
    done = results[fault.name, tool]
    values = {f"missed_{_key(fault.name)}": (_share(done, "promoted"), _MISSED)}
    detecting = [
        results[fault.name, peer]
        for peer in PEERS
        if _share(results[fault.name, peer], "promoted") < 0.5
    ]
    if detecting and fault.harmful and (tool == TOOLS[0] or not fault.live_only):
        better = min(fmean(o.harm for o in others) for others in detecting)
        harm = fmean(o.harm for o in done)
        values[f"harm_{_key(fault.name)}"] = (harm / better, _HARM)
    return values


def _within_budget(results: Results) -> Figures:
    """The mean harm, over the budget. (Single releases may be unlucky: the bounds are a
    chance's, and what fails within one look can't be called back.)"""
    tool = TOOLS[0]
    ramp = policy(tool).canary.ramp
    assert ramp is not None
    return {
        f"harm_over_budget_{_key(fault.name)}": _figure(
            fmean(o.harm for o in results[fault.name, tool]) / ramp.harm_budget, 1.0
        )
        for fault in (*VISIBLE, *LIVE_ONLY)
        if fault.harmful
    }


def _figure(value: float, bound: float) -> dict[str, Any]:
    return {"value": round(value, 4), "bound": bound, "ok": value <= bound}


def _share(done: list[Outcome], decision: str) -> float:
    return sum(o.decision == decision for o in done) / len(done)


def _blind(done: list[Outcome]) -> float:
    return sum(o.blind for o in done) / len(done)


def _key(name: str) -> str:
    return re.sub(r"\W+", "_", name).strip("_")
