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


def difference(before: Counts, now: Counts) -> Block:
    """What came in between, of totals that did not begin anew."""
    stable, candidate = arms(before, now)
    return Block(stable, candidate, _pairs(before.pairs, now.pairs))


def arms(before: Counts, now: Counts) -> tuple[Arm, Arm]:
    """Stable's and the candidate's counts in between."""
    return (
        _minus(now.stable or _NONE, before.stable or _NONE),
        _minus(now.candidate or _NONE, before.candidate or _NONE),
    )


def answered(before: Counts, now: Counts) -> tuple[int, int]:
    """Stable's and the candidate's requests in between."""
    return (
        (now.stable or _NONE).requests - (before.stable or _NONE).requests,
        (now.candidate or _NONE).requests - (before.candidate or _NONE).requests,
    )


def continues(before: Counts | None, now: Counts) -> bool:
    """False if the totals began anew in between."""
    if before is None:
        return True
    pairs = [
        (before.stable or _NONE, now.stable or _NONE),
        (before.candidate or _NONE, now.candidate or _NONE),
    ]
    return before.epoch == now.epoch and all(
        b.requests <= n.requests
        and b.failures <= n.failures
        and sum(b.latency.values()) <= sum(n.latency.values())
        and sum(b.scores.values()) <= sum(n.scores.values())
        for b, n in pairs
    )


_NONE, _NO_SLICE = Arm(), Slice()


def _minus(now: Arm, before: Arm) -> Arm:
    # Checked totals need no second check: this runs at every look.
    return Arm.model_construct(
        requests=now.requests - before.requests,
        failures=now.failures - before.failures,
        latency=_less(now.latency, before.latency),
        scores=_less(now.scores, before.scores),
    )


def _less(now: dict[float, int], before: dict[float, int]) -> dict[float, int]:
    if not before.keys() <= now.keys():
        return {}  # buckets were merged: what came in between is not known
    return {edge: max(0, count - before.get(edge, 0)) for edge, count in now.items()}


def _pairs(before: Pairs | None, now: Pairs | None) -> Pairs | None:
    """None where pairs were lost or judged anew: such a look tells nothing of them."""
    before = before or Pairs()
    if now is None or now.requests < before.requests or now.disagreement < before.disagreement:
        return None
    slices = {
        name: _slice_minus(each, before.slices.get(name, _NO_SLICE))
        for name, each in now.slices.items()
    }
    return Pairs(
        requests=now.requests - before.requests,
        disagreement=now.disagreement - before.disagreement,
        slices=slices,
    )


def _slice_minus(now: Slice, before: Slice) -> Slice:
    return Slice(
        requests=max(0, now.requests - before.requests),
        disagreement=max(0.0, now.disagreement - before.disagreement),
    )
