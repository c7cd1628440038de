"""`modelyard` whose controller is killed wherever something changes, again and again.

    python -m delivery.doomed MARKS release run …

Before and after each call that changes the world (the record, the routes, a server) the
process that makes it sends itself SIGKILL: once at each such place, noted in the file MARKS.
The next process, forked from one that has imported all there is to import, begins anew as a
person who runs the command again would. The last one's exit code is handed on.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any, cast

from modelyard import cli
from modelyard.delivery.commands import app  # noqa: F401  all there is to import, before the fork
from modelyard.delivery.local import ports as local
from modelyard.delivery.local.folders import STATE
from modelyard.delivery.policy import Local
from modelyard.delivery.ports import Ports, Routes
from modelyard.documents import ReleaseEvent


class Doomed:
    """A port of which some calls are deadly."""

    def __init__(self, port: object, marks: Path) -> None:
        self._port = port
        self._marks = marks

    def __getattr__(self, name: str):
        return getattr(self._port, name)

    def deadly(self, name: str, place: object, *arguments: object) -> None:
        self._die(f"before {name} {place}")
        getattr(self._port, name)(*arguments)
        self._die(f"after {name} {place}")

    def append(self, event: ReleaseEvent) -> None:
        self.deadly("append", f"{event.phase} {event.weight}", event)

    def route(self, routes: Routes) -> None:
        self.deadly("route", routes, routes)

    def deploy(self, version: int) -> None:
        self.deadly("deploy", version, version)

    def stop(self, version: int) -> None:
        self.deadly("stop", version, version)

    def _die(self, place: str) -> None:
        known = self._marks.read_text().splitlines() if self._marks.exists() else []
        if place not in known:
            with self._marks.open("a") as file:
                file.write(f"{place}\n")
            os.kill(os.getpid(), signal.SIGKILL)


def main(marks: Path) -> int:
    real = local.local_ports

    def doomed(model: str, environment: Local, state: Path = STATE) -> Ports:
        ports = real(model, environment, state)
        router, runtime, record = (
            cast(Any, Doomed(p, marks)) for p in (ports.router, ports.runtime, ports.record)
        )
        return Ports(router, runtime, ports.source, record, ports.shadow)

    local.local_ports = doomed
    while True:
        child = os.fork()
        if child == 0:
            sys.exit(cli.main())
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            return os.waitstatus_to_exitcode(status)
        assert os.WTERMSIG(status) == signal.SIGKILL, status


if __name__ == "__main__":
    path = Path(sys.argv.pop(1))
    sys.exit(main(path))
