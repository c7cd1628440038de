"""What the state machine needs of the world, whatever the world is.

`decide` sees only `Evidence`; a controller carries its actions out through these four
ports. Every method is idempotent: a controller that died is started again, reads the
record, and does the last step once more.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from modelyard.documents import ReleaseEvent, UserError


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Edge = Annotated[float, Field(gt=0, allow_inf_nan=True)]
ScoreEdge = Annotated[float, Field(allow_inf_nan=True)]
Count = Annotated[int, Field(ge=0)]


class Arm(_Frozen):
    """Running totals of one version since the source of the counts started."""

    requests: int = Field(default=0, ge=0)
    """answered, or failed by the data plane for want of an answer"""
    failures: int = Field(default=0, ge=0)
    """of them, with an answer outside of 2xx"""
    pending: int = Field(default=0, ge=0)
    """waiting for an answer now: no running total, and 0 where nobody counts it"""
    latency: dict[Edge, Count] = {}
    """upper edge of a histogram's bucket, ms (inf: the last) → requests in it (not cumulative)"""
    scores: dict[ScoreEdge, Count] = {}
    """upper edge of a histogram's bucket (inf: the last) → scores in it (not cumulative), of live
    and mirrored requests; of several classes the likeliest one's. The same edges in both arms"""


class Slice(_Frozen):
    """The pairs of one value of an input; running totals."""

    requests: int = Field(default=0, ge=0)
    """with at least one row of the slice"""
    disagreement: float = Field(default=0.0, ge=0)
    """as in `Pairs`, over the rows of the slice"""


class Disagreement(_Frozen):
    """One row that the versions answered differently. None in a score: not a number."""

    request_id: str
    row: int
    inputs: dict[str, Any]
    stable: list[float | None]
    candidate: list[float | None]


class Pairs(_Frozen):
    """Mirrored requests that both versions answered, compared row by row; running totals."""

    requests: int = Field(default=0, ge=0)
    disagreement: float = Field(default=0.0, ge=0)
    """sum over the requests of the share of their rows that are further apart than the policy's
    tolerance, or not a number: rows of one request are not independent, requests are"""
    slices: dict[str, Slice] = {}
    """by input and value, such as `carrier=UA`"""
    largest: tuple[Disagreement, ...] = ()
    """those furthest apart, at most 10, for people"""


class Counts(_Frozen):
    """What the data plane and the prediction logs counted."""

    time: float
    """when it was counted, s since the epoch"""
    epoch: str
    """changes when the totals start from 0 again (the source was restarted)"""
    stable: Arm | None = None
    candidate: Arm | None = None
    pairs: Pairs | None = None
    """since the shadow began; None outside of it"""
    replayed: Arm = Arm()
    """of stable's totals: what the release itself sent into the shadow; no user waited for it"""


class Health(_Frozen):
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


class Users(_Frozen):
    """What the controller's own clients saw, from outside; running totals of one controller."""

    requests: int | None = Field(default=None, ge=0)
    """of replayed traffic, answered or failed; None where nothing is replayed"""
    failures: int = Field(default=0, ge=0)
    """of them, without an answer or with one outside of 2xx"""
    stable_downtime_s: float = Field(default=0.0, ge=0)
    """how long the stable version did not answer a probe every 0.1 s"""


class Evidence(_Frozen):
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


class Routes(_Frozen):
    """Who serves. `stable` None: the environment's first release."""

    stable: int | None
    candidate: int | None = None
    weight: int = Field(default=0, ge=0, le=100)
    """per cent of live traffic to the candidate; stable has the rest"""
    mirror: bool = False
    """also copy what stable gets to the candidate and drop its answers"""


class Router(Protocol):
    """Splits live traffic between two versions."""

    def route(self, routes: Routes) -> None:
        """Make `routes` live, and return once they are.

        Raises:
            UserError: they did not get live in time.
        """
        ...

    def serving(self) -> dict[int, int]:
        """Who gets users now, whoever has made it so: version → weight, above 0.

        Empty where nobody does, or none of this model's versions.
        """
        ...


class Runtime(Protocol):
    """Runs the servers of versions."""

    def check(self, version: int) -> None:
        """See that `version` can be deployed: the artifact is there, the place is free.

        Raises:
            UserError: it can't.
        """
        ...

    def deploy(self, version: int) -> None:
        """Start the servers of `version` unless they run; does not wait for them.

        Raises:
            UserError: they can't be started.
        """
        ...

    def health(self, version: int) -> Health:
        """How the servers of `version` are now."""
        ...

    def stop(self, version: int) -> None:
        """Let the servers of `version` finish what they are answering, and end them."""
        ...

    def versions(self) -> set[int]:
        """All versions that have servers."""
        ...


class Source(Protocol):
    """Counts what the versions answered."""

    def counts(self, routes: Routes, since: float) -> Counts:
        """The totals now; pairs of requests answered after `since` (s since the epoch).

        Raises:
            ConnectionError: the source does not answer, or not with numbers.
        """
        ...


class NoAnswer(UserError):
    """What a port stands for can't be reached, or is not itself; asking again may help."""


class Reach(Protocol):
    """Whether users and the source of the counts get through to a version that nobody is sent to.

    That its servers are ready says nothing of what lies between.
    """

    def problem(self, version: int) -> str:
        """What is in the way, and where to mend it; empty: nothing.

        Raises:
            UserError: it can't be tried.
        """
        ...

    def end(self) -> None:
        """Take away what was made to try it."""
        ...


class LockLost(UserError):
    """The environment may be another controller's by now: leave everything as it is."""


class Record(Protocol):
    """What was seen and decided, append-only."""

    def lock(self) -> AbstractContextManager[None]:
        """Hold the environment: one controller at a time.

        Raises:
            UserError: another controller holds it.
        """
        ...

    def check(self) -> None:
        """See that this controller still holds the lock.

        Raises:
            LockLost: it does not, or can't know.
        """
        ...

    def releases(self) -> list[list[ReleaseEvent]]:
        """The events of all releases of the environment, oldest release first.

        Raises:
            UserError: a record was edited by hand.
        """
        ...

    def append(self, event: ReleaseEvent) -> None:
        """Write an event so that it outlives a crash.

        Raises:
            UserError: it can't be written.
        """
        ...

    def set_aside(self, sound: Callable[[list[ReleaseEvent]], bool]) -> list[str]:
        """Take out of the record, and keep beside it, each release that can't be read or is not
        `sound`.

        Returns:
            where they are now, for people.
        """
        ...


class ShadowTraffic(Protocol):
    """Logged requests for a shadow that too few users give traffic to. Idempotent, too."""

    def start(self, stable: int) -> None:
        """Top live traffic up, by a way that neither users nor the live split see."""
        ...

    def stop(self, wait: bool) -> None:
        """Send no more; `wait` until all that was sent is counted."""
        ...


@dataclass(frozen=True)
class Ports:
    """The four of them for one environment."""

    router: Router
    runtime: Runtime
    source: Source
    record: Record
    shadow: ShadowTraffic | None = None
    """where there are logged requests at hand"""
    reach: Reach | None = None
    """where anything lies between users and servers"""
    blind: str = ""
    """which failures the source can't see, for people"""
