"""One look at the world: counts, the health of the servers, what users saw."""

from typing import Literal

from pydantic import Field

from modelyard.delivery.evidence.counts import Counts, Frozen


class Health(Frozen):
    """Whether a version's servers can take traffic."""

    status: Literal["absent", "starting", "ready", "failed"]
    detail: str = ""
    """for people: why it failed, such as the end of the server's log"""
    ready: int | None = None
    """servers that can take a request now, also where `status` wants more; None: not known"""

    @property
    def answers(self) -> bool:
        """Whether a server of it answers, for sure."""
        return self.status == "ready" or bool(self.ready)

    @property
    def silent(self) -> bool:
        """Whether none does, for sure."""
        return self.status == "absent" or self.ready == 0


class Users(Frozen):
    """What the controller's own clients saw, from outside; running totals of one controller."""

    requests: int | None = Field(default=None, ge=0)
    """of replayed traffic, answered or failed; None where nothing is replayed"""
    failures: int = Field(default=0, ge=0)
    """of them, without an answer or with one outside of 2xx"""
    stable_downtime_s: float = Field(default=0.0, ge=0)
    """how long the stable version did not answer a probe every 0.1 s"""


class Evidence(Frozen):
    """One look at the world. `decide` goes by it alone, but not by `users`."""

    time: float
    """when the look began, s since the epoch; later than what was decided before was done"""
    candidate: Health
    stable: Health | None = None
    """None where there is no stable version"""
    counts: Counts | None = None
    """None: the source did not answer"""
    note: str = ""
    """why there are no counts"""
    users: Users | None = None
    """for people; None where this controller sends no traffic"""
    unreached: str = ""
    """of a candidate that is ready: what keeps users, or who counts, from it; empty: nothing"""
