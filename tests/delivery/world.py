"""A small world for a controller: all of its ports at once, and writers that are killed."""

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from modelyard.delivery.evidence.counts import Arm, Counts, Pairs
from modelyard.delivery.evidence.looks import Health
from modelyard.delivery.local.record import FileRecord
from modelyard.delivery.policy import Policy
from modelyard.delivery.ports import Ports, Routes
from modelyard.delivery.release.controller import Controller
from modelyard.documents import ReleaseEvent

ENOUGH = 40
POLICY = Policy.model_validate(
    {
        "interval": "1ms",
        "shadow": {"min_requests": ENOUGH, "max_duration": "20s"},
        "canary": {
            "steps": [5, 50],
            "min_requests": ENOUGH,
            "min_duration": "1ms",
            "max_duration": "20s",
        },
    }
)


class World:
    """Router, runtime and source at once; 1000 requests come in with each look."""

    def __init__(self) -> None:
        self.routes = Routes(stable=1)
        self.running = {1}
        self.requests: Counter[int] = Counter()
        self.live: Counter[int] = Counter()
        """weight → requests of users to the candidate"""

    def come_in(self, number: int = 1000) -> None:
        routes = self.routes
        serving = {routes.stable: 100 - routes.weight, routes.candidate: routes.weight}
        assert {version for version, share in serving.items() if share} <= self.running
        given = number * routes.weight // 100
        self.requests[routes.stable or 0] += number - given
        if routes.candidate:
            self.live[routes.weight] += given
            self.requests[routes.candidate] += number if routes.mirror else given

    def route(self, routes: Routes) -> None:
        assert {routes.stable, routes.candidate} - {None} <= self.running
        self.routes = routes

    def serving(self) -> dict[int, int]:
        routes = self.routes
        shares = {routes.stable: 100 - routes.weight, routes.candidate: routes.weight}
        return {v: share for v, share in shares.items() if v is not None and share}

    def check(self, version: int) -> None: ...

    def deploy(self, version: int) -> None:
        self.running.add(version)

    def health(self, version: int) -> Health:
        return Health(status="ready" if version in self.running else "absent")

    def stop(self, version: int) -> None:
        assert version not in (self.routes.stable, self.routes.weight and self.routes.candidate)
        self.running.discard(version)

    def versions(self) -> set[int]:
        return set(self.running)

    def counts(self, routes: Routes, since: float) -> Counts:
        self.come_in()
        stable, candidate = (
            Arm(requests=self.requests[v or 0], latency={9.0: 0, 10.0: self.requests[v or 0]})
            for v in (routes.stable, routes.candidate)
        )
        n = candidate.requests
        pairs = Pairs(requests=n) if routes.mirror else None
        return Counts(time=time.time(), epoch="a", stable=stable, candidate=candidate, pairs=pairs)


class Killed(BaseException):
    """As kill -9: nothing in the controller gets to see it."""


class Fatal(FileRecord):
    """A record whose writer is killed once an event is written."""

    def __init__(self, folder: Path, deadly: Callable[[ReleaseEvent], bool]) -> None:
        super().__init__(folder)
        self.deadly = deadly

    def append(self, event: ReleaseEvent) -> None:
        super().append(event)
        if self.deadly(event):
            raise Killed


def released(folder: Path) -> None:
    """Version 1 is stable."""
    record = FileRecord(folder)
    record.folder.mkdir(parents=True, exist_ok=True)
    fields = {"release": "r0", "candidate": 1, "stable": None}
    for number, (phase, weight) in enumerate(
        [("preflight", 0), ("deploy", 0), ("promote", 100), ("done", 100)]
    ):
        done = {"decision": "bootstrapped", "stable": 1} if phase == "done" else {}
        event = {"time": 100.0 + number, "sequence": number, "phase": phase, "weight": weight}
        record.append(ReleaseEvent.model_validate({**fields, **event, **done}))


def controller(world: World, record: FileRecord, policy: Policy = POLICY) -> Controller:
    return Controller(Ports(router=world, runtime=world, source=world, record=record), policy)
