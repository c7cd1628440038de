"""What the state machine needs of the world, whatever the world is.

`decide` sees only `Evidence`; a controller carries its actions out through these four
ports. Every method is idempotent: a controller that died is started again, reads the
record, and does the last step once more.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from pydantic import Field

from modelyard.delivery.evidence.counts import Counts, Frozen
from modelyard.delivery.evidence.looks import Health
from modelyard.documents import ReleaseEvent, UserError


class Routes(Frozen):
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
