"""The harm budget: how much traffic an unproven candidate may have.

The budget is a number of failed requests that the candidate may cost users, beyond those that
stable would have had. At every look the next weight is the largest whose exposure until the
next decision, times the upper confidence bound of the excess failure rate, stays inside of
what is left.
"""

import math
from dataclasses import dataclass, replace

HIGHEST = 50
"""per cent: above, proof gets slower again, because stable has less traffic to compare with"""


@dataclass(frozen=True)
class Outlook:
    """What is known when a weight is chosen."""

    left: float
    """of the budget, failed requests"""
    bound: float
    """upper bound of the excess failure rate of live requests"""
    shadow_bound: float
    """the same of mirrored requests"""
    requests: float
    """of all users until the next decision is carried out"""
    owed: float = 0.0
    """requests that wait for the candidate, beyond what would wait for stable. A candidate that
    hangs has no failures yet: until they are answered, they are taken for failures to come"""
    by_chance: float = 0.0
    """so many may be owed by chance"""

    def weight(self) -> int:
        """The largest weight that is affordable, per cent; 0: none is.

        1 % is needed to learn anything of live traffic. For that much, what the shadow has
        proven is enough.
        """
        if self.left < 1:
            return 0  # the next failure would be beyond it
        if self.owed > 0:
            now = replace(self, left=self.left - self.owed, owed=0.0).weight()
            later = replace(self, owed=0.0).weight()
            return max(now, min(1, later)) if self.owed <= self.by_chance else now
        if self.requests <= 0:
            return 1
        if self.cost(1) > self.left:
            proven = replace(self, bound=min(self.bound, self.shadow_bound))
            return int(proven.cost(1) <= self.left)
        mean = (math.sqrt(1 + self.left) - 1) ** 2  # the largest whose cost is what is left
        return min(HIGHEST, math.floor(100 * mean / (self.bound * self.requests)))

    def pauses(self) -> bool:
        """Whether nothing but what is owed keeps the candidate from traffic."""
        return self.weight() == 0 and replace(self, owed=0.0).weight() > 0

    def cost(self, weight: int) -> float:
        """Failed requests at most, at a weight: two standard deviations above the mean of their
        Poisson count, or else every other look would cost more than was reckoned with."""
        mean = self.bound * self.requests * weight / 100
        return mean + 2 * math.sqrt(mean)

    def __str__(self) -> str:
        hangs = self.owed > self.by_chance
        owed = f", {self.owed:.0f} more requests than at stable wait" if hangs else ""
        return (
            f"{max(0.0, self.left):.1f} failed requests of the harm budget are left, "
            f"{self.bound:.2%} more failures than stable's are possible{owed}"
        )
