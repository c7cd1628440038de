"""Servers that outlive the command which started them.

Each has a JSON file with its pid *and* its start time, so that a pid that the system
gave to another program meanwhile is never taken for it, let alone killed.
"""

import json
import os
import random
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from modelyard.documents import UserError

_SAME_START_S = 2.0  # psutil derives start times from the boot time, which can wobble
_TERMINATE_S = 15.0
_TOKEN = "MODELYARD_SERVER"


def write_atomically(path: Path, text: str) -> None:
    """Replace a file by rename: a reader sees the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listened on a moment ago.

    Below those that systems give to outgoing connections (from 32768 on Linux): under load one
    of these takes a port before a server has started, which needs seconds.

    Raises:
        UserError: of a hundred ports none was free.
    """
    for port in random.sample(range(20_000, 32_000), 100):
        if not port_taken(port):
            return port
    raise UserError("no free port between 20000 and 32000 on 127.0.0.1")


def port_taken(port: int) -> bool:
    """Whether a server listens on this TCP port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


class Server:
    """A detached process group, known by its file `<folder>/process.json`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "process.json"
        self.log = folder / "server.log"

    @property
    def facts(self) -> dict[str, Any] | None:
        """What `start` wrote: pid, started, token, and its own keyword arguments."""
        try:
            return json.loads(self.file.read_text())
        except FileNotFoundError:
            return None
        except json.JSONDecodeError:
            raise UserError(f"{self.file}: not readable; end that process and remove it") from None

    def alive(self) -> bool:
        return self._process() is not None

    def start(
        self, command: Sequence[str], environment: Mapping[str, str], **facts: int | str
    ) -> None:
        """Start `command` in a session of its own; output goes to `server.log`.

        A token in the server's environment is noted before it starts: were the starter
        killed right then, the server would be found by it. What an earlier one left over
        is ended first.
        """
        self.stop()
        self.folder.mkdir(parents=True, exist_ok=True)
        token = uuid.uuid4().hex
        self._note({**facts, "token": token})
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                command,
                env={**os.environ, **environment, _TOKEN: token},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            started = psutil.Process(process.pid).create_time()
        except psutil.NoSuchProcess:
            started = 0.0
        self._note({"pid": process.pid, "started": started, **facts, "token": token})

    def stop(self) -> None:
        """End all of its processes: asked first, killed if they do not go. Idempotent.

        They are found by the token, too: workers outlive a leader that was killed.
        """
        for number in (signal.SIGTERM, signal.SIGKILL):
            members = self._members()
            for process in members:
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(number)
            psutil.wait_procs(members, timeout=_TERMINATE_S)
        self.file.unlink(missing_ok=True)

    def log_tail(self, lines: int = 12) -> str:
        """The end of what the server wrote."""
        try:
            text = self.log.read_text(errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.strip().splitlines()[-lines:])

    def _members(self) -> set[psutil.Process]:
        """The leader, its descendants, and whoever else carries the token."""
        leader, token = self._process(), (self.facts or {}).get("token")
        family = {leader, *leader.children(recursive=True)} if leader else set()
        return family | set(_carriers(token)) if token else family

    def _note(self, facts: Mapping[str, Any]) -> None:
        write_atomically(self.file, json.dumps(facts) + "\n")

    def _process(self) -> psutil.Process | None:
        facts = self.facts
        if facts is None:
            return None
        if "pid" not in facts:
            return next(filter(_leads, _carriers(facts["token"])), None)
        try:
            process = psutil.Process(facts["pid"])
            ours = abs(process.create_time() - facts["started"]) < _SAME_START_S
            return process if ours and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None


def _carriers(token: str) -> Iterator[psutil.Process]:
    """The processes that were started with `token` in their environment."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(_TOKEN) == token:
                yield process


def _leads(process: psutil.Process) -> bool:
    """Whether a process leads its group, as one that `start` began does."""
    try:
        return os.getpgid(process.pid) == process.pid
    except ProcessLookupError:
        return False


def wait_until(condition, seconds: float, every: float = 0.05) -> bool:
    """Poll `condition()` until it holds; False if it did not in `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(every)
    return True
