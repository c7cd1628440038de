"""The faults, the tools, and many releases of each pair of them."""

import functools
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import replace

import yaml

from benchmarks.canary.outcome import Outcome
from benchmarks.canary.peers import argo_rollouts, flagger
from benchmarks.canary.release import release
from benchmarks.canary.traffic import Fault, Traffic
from modelyard.delivery.policy import Policy

NO_CHANGE, SILENCE = Fault("no change"), Fault("traffic stops", silence=True)
VISIBLE = (
    Fault("failures +2 points", failures=0.02),
    Fault("failures +10 points", failures=0.1),
    Fault("failures +100 points", failures=1.0),
    Fault("latency x 1.2", slowdown=1.2),
    Fault("latency x 2", slowdown=2.0),
    Fault("shifted score", shift=1.0),
)
LIVE_ONLY = tuple(replace(f, name=f"{f.name}, live only", live_only=True) for f in VISIBLE)
LATE = tuple(replace(f, name=f"{f.name}, late", late=True) for f in VISIBLE if f.harmful)
FAULTS = (NO_CHANGE, *VISIBLE, *LIVE_ONLY, *LATE, SILENCE)

HARM_BUDGET = """\
policy:
  interval: 1s
  shadow: {min_requests: 500, max_duration: 5m}
  canary:
    ramp: {harm_budget: 7}
    max_duration: 5m
  gates:
    errors: {margin: 0.01}
    latency: {quantile: 0.5, ratio: 1.15, slack: 1ms}
    scores: {max_shift: 0.1}
"""
FIXED_STEPS = HARM_BUDGET.replace(
    "ramp: {harm_budget: 7}", "steps: [5, 25, 50]\n    min_requests: 100"
)
OURS = {"modelyard, harm budget": HARM_BUDGET, "modelyard, fixed steps": FIXED_STEPS}
PEERS: dict[str, Callable[[Traffic], Outcome]] = {
    "Flagger": flagger,
    "Argo Rollouts": argo_rollouts,
}
TOOLS = (*OURS, *PEERS)
_CHUNK = 20

Results = dict[tuple[str, str], list[Outcome]]
"""by the fault's name and the tool's"""


def simulate(executor: Executor, tool: str, fault: Fault, runs: int) -> list[Outcome]:
    """Releases of a candidate with a fault; run i meets the same requests whatever the tool."""
    chunks = [range(i, min(i + _CHUNK, runs)) for i in range(0, runs, _CHUNK)]
    done = executor.map(functools.partial(_some, tool, fault), chunks)
    return [outcome for some in done for outcome in some]


def _some(tool: str, fault: Fault, seeds: range) -> list[Outcome]:
    run = PEERS.get(tool) or functools.partial(release, policy(tool))
    return [run(Traffic(fault, seed)) for seed in seeds]


@functools.cache
def policy(tool: str) -> Policy:
    """One of the two policies that are written above, as `argo/release.yaml` holds it."""
    return Policy.model_validate(yaml.safe_load(OURS[tool])["policy"])
