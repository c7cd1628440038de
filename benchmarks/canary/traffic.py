"""The users of the simulation, and what two versions of a model answer them.

Everything random is drawn for the requests, never for a tool: with the same seed every
tool meets the same requests at the same seconds, and each version answers them alike.
"""

import functools
import math
from dataclasses import dataclass, field

import numpy as np

RATE = 50.0
"""requests a second (Poisson)"""
FAILING = 0.001
"""share of the requests that fail at either version"""
MEDIAN_MS, SPREAD = 60.0, math.log(300 / 60) / 2.3263
"""log-normal latencies: median 60 ms, p99 300 ms"""
BLOCK_S = 60
"""drawn at a time"""
LOADED = 20
"""per cent: what comes late comes when the candidate first has so much of the traffic"""
_POOL = 20_000
_JITTER = 0.1
"""standard deviation of the log odds: a model that was trained anew answers a bit differently"""
_TOLERANCE = 1.5
"""standard deviations of stable's scores, the policy's default: further apart disagrees"""


@dataclass(frozen=True)
class Fault:
    """What is wrong with a candidate."""

    name: str
    failures: float = 0.0
    """added to the failure rate; 1: every request fails"""
    slowdown: float = 1.0
    """factor of the latencies"""
    shift: float = 0.0
    """added to the log odds of every score"""
    live_only: bool = False
    """mirrored requests do not show it"""
    late: bool = False
    """it begins late; see `LOADED`"""
    silence: bool = False
    """no fault, but late on no request comes any more"""

    @property
    def harmful(self) -> bool:
        return self.failures > 0


@dataclass
class Answers:
    """Of one version; arrays of one entry a request."""

    failed: np.ndarray
    """bool"""
    caused: np.ndarray
    """bool: failed by the fault, and would not have failed at stable's rate"""
    latency: np.ndarray
    """ms"""
    score: np.ndarray
    """0…1; not to be read where `failed`"""
    rest: np.ndarray
    """ms of its second that were left when the request came"""

    def take(self, chosen: np.ndarray | slice) -> "Answers":
        return Answers(
            self.failed[chosen],
            self.caused[chosen],
            self.latency[chosen],
            self.score[chosen],
            self.rest[chosen],
        )


@dataclass
class Served:
    """What happened to the requests of some seconds."""

    stable: Answers
    candidate: Answers
    """to users"""
    mirrored: Answers
    """to copies of what `stable` answered; empty without a mirror"""
    disagree: np.ndarray
    """bool, beside `mirrored`: the two scores are further apart than the tolerance"""


@dataclass
class Traffic:
    """The requests of one release, second by second."""

    fault: Fault
    seed: int
    time: int = 0
    """s since the begin"""
    late: int | None = None
    """when the candidate first had `LOADED` per cent, s; None: not yet"""
    _block: "_Block | None" = field(default=None, repr=False)

    def serve(self, seconds: int, weight: int, mirror: bool = False) -> Served:
        """The next `seconds`, at most to the end of a minute, at `weight` per cent."""
        if self.late is None and weight >= LOADED:
            self.late = self.time
        first = self.time % BLOCK_S
        if first + seconds > BLOCK_S:
            raise ValueError(f"{seconds} s from {self.time} s go beyond the minute")
        if first == 0 or self._block is None:
            self._block = _Block(self.fault, self.seed, self.time // BLOCK_S)
        block, fault = self._block, self.fault
        self.time += seconds
        end = block.starts[first if fault.silence and self.late is not None else first + seconds]
        chosen = slice(block.starts[first], end)
        begun = self.late is not None or not fault.late
        shown = begun and not fault.live_only
        live = block.route[chosen] < weight / 100
        copied = ~live & mirror
        return Served(
            stable=block.stable.take(chosen).take(~live),
            candidate=block.candidate[begun].take(chosen).take(live),
            mirrored=block.candidate[shown].take(chosen).take(copied),
            disagree=block.disagree[shown][chosen][copied],
        )


class _Block:
    """A minute of requests with the answers of stable and of the candidate, good and faulty."""

    def __init__(self, fault: Fault, seed: int, number: int) -> None:
        rng = np.random.default_rng([seed, number])
        each = rng.poisson(RATE, BLOCK_S)
        n = int(each.sum())
        self.starts = [0, *np.cumsum(each).tolist()]
        """of the seconds among the requests"""
        self.route = rng.random(n)
        pool = _pool(fault.shift)
        row = rng.integers(_POOL, size=n)
        none = np.zeros(n, dtype=bool)
        failed, by_fault = rng.random((2, n)) < FAILING, rng.random(n)
        latency = MEDIAN_MS * np.exp(SPREAD * rng.standard_normal((2, n)))
        rest = 1000 * rng.random(n)
        caused = ~failed[1] & (by_fault < fault.failures / (1 - FAILING))
        self.stable = Answers(failed[0], none, latency[0], pool.stable[row], rest)
        self.candidate = {
            False: Answers(failed[1], none, latency[1], pool.good[row], rest),
            True: Answers(
                failed[1] | caused, caused, latency[1] * fault.slowdown, pool.bad[row], rest
            ),
        }
        """by whether the fault shows"""
        self.disagree = {False: pool.good_far[row], True: pool.bad_far[row]}


@dataclass(frozen=True)
class _Pool:
    """Rows to be asked for, with their scores; arrays of `_POOL` entries."""

    stable: np.ndarray
    good: np.ndarray
    bad: np.ndarray
    good_far: np.ndarray
    bad_far: np.ndarray


@functools.cache
def _pool(shift: float) -> _Pool:
    rng = np.random.default_rng(0)
    stable = rng.beta(2, 5, _POOL)
    odds = np.log(stable / (1 - stable)) + _JITTER * rng.standard_normal(_POOL)
    good, bad = 1 / (1 + np.exp(-odds)), 1 / (1 + np.exp(-odds - shift))
    far = _TOLERANCE * stable.std()
    return _Pool(stable, good, bad, np.abs(good - stable) > far, np.abs(bad - stable) > far)
