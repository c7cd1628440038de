"""The node on the command line.

`python -m cluster.node up | down | status | compiled | run -- COMMAND`

`run` starts a node, runs a command with it and ends it, whatever happens; one that `up` has
started is used as it is, and stays. `compiled` exits with 1 if there is something to compile.
"""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

from cluster.node import addons, requirements
from cluster.node.node import Node, NodeFailed
from cluster.node.programs import CommandFailed, cache, compile_all, say, to_compile

USAGE = "usage: python -m cluster.node up | down | status | compiled | run -- COMMAND ..."


def main(words: list[str]) -> int:
    commands = {"up": up, "down": down, "status": status, "compiled": compiled}
    try:
        if words[:2] == ["run", "--"] and words[2:]:
            return run(words[2:])
        if len(words) == 1 and words[0] in commands:
            return commands[words[0]]()
    except (CommandFailed, NodeFailed, InUse) as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        return 130
    print(USAGE, file=sys.stderr)
    return 1


def up() -> int:
    """Start a node that stays, for one test run after another; one that runs gets its add-ons
    anew."""
    if missing := requirements.missing():
        say(missing)
        return 1
    with alone():
        node = Node()
        if node.runs() and node.kept:
            say("the node runs already: its add-ons are brought up to date")
            compile_all()
            addons.install(node)
        else:
            _start(node)
            node.keep()
    print(f"export MODELYARD_TEST_KUBECONFIG={node.kubeconfig}")
    return 0


def down() -> int:
    with alone():
        Node().down()
    return 0


def status() -> int:
    node = Node()
    for name in node.processes.names():
        say(f"{name}: {'runs' if node.processes.runs(name) else 'ended'}")
    if not node.runs():
        say("no node runs")
        return 1
    print(node.kubectl_quietly("get", "pods", "--all-namespaces"))
    return 0


def compiled() -> int:
    if missing := to_compile():
        say(f"to compile: {', '.join(each.name for each in missing)}, into {cache()}")
    return 1 if missing else 0


def run(words: list[str]) -> int:
    """Run a command on a cluster: of one's own, on the node that is up, or on a new one."""
    if os.environ.get(requirements.KUBECONFIG):
        return subprocess.run(words).returncode
    if missing := requirements.missing():
        say(f"no tests on a cluster: {missing}")
        return 1 if requirements.required() else 0
    with alone():
        node = Node()
        kept = node.runs() and node.kept
        try:
            if not kept:
                _start(node)
            return _run_bounded(words, {requirements.KUBECONFIG: str(node.kubeconfig)})
        finally:
            if not kept:
                # A second ctrl-C must not leave half of it running.
                for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                    signal.signal(each, signal.SIG_IGN)
                node.down()


def _start(node: Node) -> None:
    compile_all()
    try:
        node.up()
        addons.install(node)
    except BaseException:
        if not os.environ.get("MODELYARD_CLUSTER_KEEP_BROKEN"):
            node.down()
        raise


def _run_bounded(words: list[str], variables: dict[str, str]) -> int:
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, _interrupt)
    process = subprocess.Popen(words, env=os.environ | variables)
    try:
        return process.wait()
    except KeyboardInterrupt:
        # A terminal's ctrl-C has reached it as well, another signal has not.
        for sig, patience in ((None, 5), (signal.SIGINT, 30), (signal.SIGKILL, 10)):
            if sig is not None:
                process.send_signal(sig)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(patience)
                break
        raise


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """One at a time starts or ends the node; who is killed lets go of it by that."""
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / "node.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InUse("another run has the node: wait for its end, or end it") from None
        yield


class InUse(Exception):
    """Another run has the node."""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
