"""What came in between two looks."""

from dataclasses import dataclass

from modelyard.delivery.evidence.counts import Arm, Counts, Pairs, Slice


@dataclass(frozen=True)
class Block:
    """What came in between two looks."""

    stable: Arm
    candidate: Arm
    pairs: Pairs | None = None
    """of the shadow, where predictions are compared"""


def difference(earlier: Counts, now: Counts) -> Block:
    """What came in between, of totals that did not begin anew."""
    stable, candidate = arms(earlier, now)
    return Block(stable, candidate, _pairs(earlier.pairs, now.pairs))


def arms(earlier: Counts, now: Counts) -> tuple[Arm, Arm]:
    """Stable's and the candidate's counts in between."""
    return (
        _minus(now.stable or _NONE, earlier.stable or _NONE),
        _minus(now.candidate or _NONE, earlier.candidate or _NONE),
    )


def answered(earlier: Counts, now: Counts) -> tuple[int, int]:
    """Stable's and the candidate's requests in between."""
    return (
        (now.stable or _NONE).requests - (earlier.stable or _NONE).requests,
        (now.candidate or _NONE).requests - (earlier.candidate or _NONE).requests,
    )


def continues(earlier: Counts | None, now: Counts) -> bool:
    """False if the totals began anew in between."""
    if earlier is None:
        return True
    pairs = [
        (earlier.stable or _NONE, now.stable or _NONE),
        (earlier.candidate or _NONE, now.candidate or _NONE),
    ]
    return earlier.epoch == now.epoch and all(
        b.requests <= n.requests
        and b.failures <= n.failures
        and sum(b.latency.values()) <= sum(n.latency.values())
        and sum(b.scores.values()) <= sum(n.scores.values())
        for b, n in pairs
    )


_NONE, _NO_SLICE = Arm(), Slice()


def _minus(now: Arm, earlier: Arm) -> Arm:
    # Checked totals need no second check: this runs at every look.
    return Arm.model_construct(
        requests=now.requests - earlier.requests,
        failures=now.failures - earlier.failures,
        latency=_less(now.latency, earlier.latency),
        scores=_less(now.scores, earlier.scores),
    )


def _less(now: dict[float, int], earlier: dict[float, int]) -> dict[float, int]:
    if not earlier.keys() <= now.keys():
        return {}  # buckets were merged: what came in between is not known
    return {edge: max(0, count - earlier.get(edge, 0)) for edge, count in now.items()}


def _pairs(earlier: Pairs | None, now: Pairs | None) -> Pairs | None:
    """None where pairs were lost or judged anew: such a look tells nothing of them."""
    earlier = earlier or Pairs()
    if now is None or now.requests < earlier.requests or now.disagreement < earlier.disagreement:
        return None
    slices = {
        name: _slice_minus(each, earlier.slices.get(name, _NO_SLICE))
        for name, each in now.slices.items()
    }
    return Pairs(
        requests=now.requests - earlier.requests,
        disagreement=now.disagreement - earlier.disagreement,
        slices=slices,
    )


def _slice_minus(now: Slice, earlier: Slice) -> Slice:
    return Slice(
        requests=max(0, now.requests - earlier.requests),
        disagreement=max(0.0, now.disagreement - earlier.disagreement),
    )
