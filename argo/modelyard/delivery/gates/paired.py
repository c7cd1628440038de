"""The tests of the paired predictions of the shadow, whole and by slice."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from modelyard.delivery.evidence.counts import Pairs, Slice
from modelyard.delivery.gates.test_plan import pair_layout, slice_plan
from modelyard.delivery.gates.verdicts import Level, Verdict
from modelyard.statistics.sequential import Bets, Floats

_SHOWN_SLICES = 3
_NO_SLICE = Slice()


@dataclass(frozen=True, eq=False)
class Paired:
    """The tests of the paired predictions, whole and by slice."""

    most: float
    bets: Bets
    slices: Bets | None = None
    names: tuple[str, ...] = ()
    """of the slices, in the order in which they came up"""

    @classmethod
    def begin(cls, most: float) -> "Paired":
        return cls(most, Bets.begin(pair_layout(most).plan))

    def updated(self, pairs: Pairs | None) -> "Paired":
        if pairs is None:
            return self
        bets = self.bets.updated([_one_arm(pairs.requests, pairs.disagreement)])
        new = tuple(name for name in pairs.slices if name not in self.names)
        names, slices = self.names + new, self.slices
        if new:
            plan = slice_plan(self.most, len(names))
            slices = slices.grown(plan) if slices else Bets.begin(plan)
        if slices:
            found = (pairs.slices.get(name, _NO_SLICE) for name in names)
            slices = slices.updated([_one_arm(s.requests, s.disagreement) for s in found])
        return Paired(self.most, bets, slices, names)

    def verdicts(self, level: Level, slices: bool) -> Iterator[Verdict]:
        """Of all pairs; and of the slices with the most evidence against them, if `slices`."""
        places, best = pair_layout(self.most).places, self.bets.best
        nulls = [null.d for null in self.bets.plan.nulls[places["upper"]]]
        yield level.verdict(
            "predictions",
            self._text(self.bets.seen[0]),
            e=float(self.bets.e[places["harm"]][0]),
            proof=float(best[places["upper"]][nulls.index(self.most)]),
            n=self.bets.seen[0][2],
            estimate=_mean(self.bets.seen[0]),
            lower=level.greatest(self.bets, places["lower"], 0.0),
            upper=level.least(self.bets, places["upper"], 1.0),
            limit=self.most,
        )
        if slices and self.slices:
            yield from self._worst(self.slices, level)

    def _worst(self, slices: Bets, level: Level) -> Iterator[Verdict]:
        # The j-th slice has 1 / (j (j + 1)) of the slices' part of alpha: these sum to 1
        # however many there will be.
        j = np.arange(1, len(self.names) + 1)
        needed = level.harmful * j * (j + 1)
        for n in np.argsort(-slices.e / needed, kind="stable")[:_SHOWN_SLICES]:
            yield level.verdict(
                f"predictions {self.names[n]}",
                self._text(slices.seen[n]),
                e=float(slices.e[n]),
                threshold=float(needed[n]),
                estimate=_mean(slices.seen[n]),
                limit=self.most,
            )

    def _text(self, seen: Floats) -> str:
        return (
            f"{seen[3]:.0f} of {seen[2]:.0f} paired predictions disagree (at most {self.most:.0%})"
        )


def _mean(seen: Floats) -> float | None:
    return float(seen[3] / seen[2]) if seen[2] else None


def _one_arm(requests: int, hits: float) -> list[float]:
    return [0.0, 0.0, float(requests), min(hits, float(requests))]
