"""A network of the test's own: BentoML's port 3000 is free there, as it is in a pod."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import pytest

ASK = """
import json, sys, time, httpx
method, url, body, end = *sys.argv[1:4], time.monotonic() + float(sys.argv[4])
while True:
    try:
        answer = httpx.request(method, url, json=json.loads(body), trust_env=False, timeout=10)
    except httpx.TransportError as error:
        answer = httpx.Response(599, text=repr(error))
    if answer.status_code == 200 or time.monotonic() > end:
        break
    time.sleep(0.2)
print(json.dumps([answer.status_code, answer.text]))
"""
WAITS = "ip link set lo up && echo up && exec cat"


@dataclass(frozen=True)
class Network:
    enter: tuple[str, ...]
    """what comes before a command that shall run in it"""

    def ask(self, method: str, url: str, body: Any = None, within_s: float = 0) -> tuple[int, str]:
        """Status and text; 599 where nothing listens. Asked again until it is 200."""
        given = [method, url, json.dumps(body), str(within_s)]
        command = [*self.enter, sys.executable, "-c", ASK, *given]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        status, text = json.loads(done.stdout)
        return status, text


@contextmanager
def network() -> Iterator[Network]:
    """One of its own, where root can have one; else the machine's, if its port 3000 is free."""
    if not _can_have_one():
        yield _machines()
        return
    command = ["unshare", "--net", "sh", "-c", WAITS]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdin and holder.stdout
        assert holder.stdout.readline() == "up\n"
        yield Network(("nsenter", "--target", str(holder.pid), "--net"))
        holder.stdin.close()


def network_of_images(builder: str | None) -> AbstractContextManager[Network]:
    """For an image's command. Docker's containers are not in the network of what starts them."""
    return nullcontext(_machines()) if builder == "docker" else network()


def _machines() -> Network:
    """The machine's own; skips where something has port 3000."""
    try:
        socket.create_server(("", 3000)).close()
    except OSError:
        pytest.skip("port 3000 is in use, and there is no root to have a network of one's own")
    return Network(())


def _can_have_one() -> bool:
    if os.getuid() or not all(map(shutil.which, ("unshare", "nsenter", "ip"))):
        return False
    return not subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode
