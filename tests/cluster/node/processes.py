"""Long-lived processes of the node: each is known by a file, so that any later run can end it.

A file has the process's id and when it began, so that a process that was given the same id
since is never taken for it.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path


class Processes:
    """The processes of one folder, in the order in which they were started."""

    def __init__(self, home: Path) -> None:
        self._run, self._logs = home / "run", home / "logs"

    def start(self, name: str, *command: str | Path, first: bool = False, **variables: str) -> None:
        """Start a process that outlives this one; `first`: ahead of others for the CPUs."""
        self._run.mkdir(parents=True, exist_ok=True)
        self._logs.mkdir(parents=True, exist_ok=True)
        words = ["nice", "--adjustment=-10"] if first else []
        words += [str(each) for each in command]
        with self.log(name).open("a") as log:
            process = subprocess.Popen(
                words,
                env={**os.environ, **variables},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        state = {
            "pid": process.pid,
            "began": began(process.pid),
            "started": time.time(),
            "command": words,
            "variables": variables,
        }
        file = self._file(name)
        file.with_suffix(".new").write_text(json.dumps(state))
        file.with_suffix(".new").replace(file)

    def start_again(self, name: str) -> None:
        """Start one that was stopped, by its own command."""
        state = json.loads(self._file(name).read_text())
        self.start(name, *state["command"], **state["variables"])

    def stop(self, name: str, sig: signal.Signals = signal.SIGTERM, patience: float = 15) -> None:
        """End a process and its group; its command is kept for `start_again`."""
        state = json.loads(self._file(name).read_text())
        pid = state["pid"]
        if self.runs(name):
            _signal(pid, sig)
            if not until(lambda: not self.runs(name), patience):
                _signal(pid, signal.SIGKILL)
                until(lambda: not self.runs(name), 10)

    def end(self, name: str) -> None:
        """End a process for good."""
        self.stop(name)
        self._file(name).unlink()

    def runs(self, name: str) -> bool:
        try:
            state = json.loads(self._file(name).read_text())
        except FileNotFoundError:
            return False
        return alive(state["pid"], state["began"])

    def names(self) -> list[str]:
        """Those that were started and not ended for good, oldest first."""
        files = sorted(
            self._run.glob("*.json"), key=lambda each: json.loads(each.read_text())["started"]
        )
        return [each.stem for each in files]

    def log(self, name: str) -> Path:
        return self._logs / f"{name}.log"

    def _file(self, name: str) -> Path:
        return self._run / f"{name}.json"


def began(pid: int) -> str:
    """When a process began, in the kernel's ticks; empty where there is none (or a zombie)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if fields[0] == "Z" else fields[19]


def alive(pid: int, since: str) -> bool:
    _reap(pid)
    return since != "" and began(pid) == since


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        pass


def _signal(group: int, sig: signal.Signals) -> None:
    try:
        os.killpg(group, sig)
    except ProcessLookupError:
        pass


def containers(socket: Path) -> list[int]:
    """Ids of the shims of a containerd, and of what they run, shims first."""
    shims: list[int] = []
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            stat = (folder / "stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents[int(folder.name)] = int(stat.rpartition(")")[2].split()[1])
        if words[0].endswith(b"containerd-shim-runc-v2") and str(socket).encode() in words:
            shims.append(int(folder.name))
    return shims + descendants(shims, parents)


def descendants(of: Sequence[int], parents: dict[int, int]) -> list[int]:
    found = [pid for pid, parent in parents.items() if parent in of]
    return found + descendants(found, parents) if found else []


def until(done: Callable[[], bool], seconds: float) -> bool:
    """Whether it came true in that time."""
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True
