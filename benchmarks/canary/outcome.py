"""How one simulated release ended."""

from dataclasses import dataclass
from typing import Literal, Self

from benchmarks.canary.traffic import Answers, Served, Traffic

Decision = Literal["promoted", "rolled_back", "inconclusive", "unfinished"]


@dataclass
class Outcome:
    """Of one release; counts up to the decision."""

    decision: Decision = "unfinished"
    """inconclusive: rolled back for want of proof"""
    seconds: int = 0
    """from a candidate that is ready to the decision; at promotion it has 100 %"""
    exposed: int = 0
    """users' requests that the candidate answered"""
    harm: int = 0
    """of them, failed because of the fault: stable would have answered them"""
    blind: bool = False
    """the candidate was given more traffic although none came any more"""

    def watch(self, traffic: Traffic, seconds: int, weight: int) -> Answers:
        """The candidate's answers to users in the next seconds."""
        return self.count(traffic.serve(seconds, weight)).candidate

    def count(self, served: Served) -> Served:
        self.exposed += len(served.candidate.failed)
        self.harm += int(served.candidate.caused.sum())
        return served

    def rise(self, traffic: Traffic) -> None:
        """The candidate is given more traffic now."""
        late = traffic.late if traffic.fault.silence else None
        # What came in the last second is answered in the next.
        if late is not None and traffic.time > late + 1:
            self.blind = True

    def end(self, decision: Decision, traffic: Traffic) -> Self:
        if decision == "promoted":
            self.rise(traffic)
        self.decision, self.seconds = decision, traffic.time
        return self
