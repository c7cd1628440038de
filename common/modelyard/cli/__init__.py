"""The `modelyard` command: each room names its subcommands, and one is imported when it is run."""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import entry_points
from typing import NamedTuple

GROUP = "modelyard.commands"
"""entry points, each a sequence of `Command` in a module that is quick to import"""
MISTAKE = 1
"""exit code of a user's mistake, of one in the command line too: 2 and more have other meanings"""
INTERRUPTED = 130
"""exit code after ctrl-C, a shell's own"""


class Command(NamedTuple):
    name: str
    """as typed: `modelyard NAME …`"""
    help: str
    """one line"""
    target: str
    """`module:function`; the function takes the arguments after the name, gives the exit code"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a subcommand, or lists them all; gives the exit code.

    A user's mistake (`UserError`) is one message on stderr, without a traceback.
    """
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or [""]
    commands = {command.name: command for command in installed()}
    if name in ("", "-h", "--help"):
        print(listed(commands.values()))
        return 0 if name else MISTAKE
    if name not in commands:
        print(f"error: no such command: {name}\n\n{listed(commands.values())}", file=sys.stderr)
        return MISTAKE
    return ended(lambda: _loaded(commands[name])(rest))


def ended(run: Callable[[], int]) -> int:
    """The exit code of `run`; a user's mistake is printed, ctrl-C is no traceback either."""
    try:
        return run()
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        # Here, so that a list of the commands needs no pydantic.
        from modelyard.documents import UserError

        if isinstance(error, ModuleNotFoundError) and (missing := _extra(error)):
            error = UserError(missing)
        if not isinstance(error, UserError):
            raise
        print(f"error: {error}", file=sys.stderr)
        return MISTAKE


def installed() -> Iterator[Command]:
    """The subcommands of all rooms that are here: an image holds only one of them."""
    for entry in sorted(entry_points(group=GROUP)):
        room = entry.module.split(".")[:2]
        if importlib.util.find_spec(".".join(room)):
            yield from entry.load()


def listed(commands: Iterable[Command]) -> str:
    """What `modelyard --help` prints."""
    lines = [f"  {command.name:<12}{command.help}" for command in commands]
    return "\n".join(
        ["usage: modelyard COMMAND …", "", *lines, "", "modelyard COMMAND --help says more."]
    )


def _loaded(command: Command) -> Callable[[Sequence[str]], int]:
    module, _, function = command.target.partition(":")
    return getattr(importlib.import_module(module), function)


def _extra(error: ModuleNotFoundError) -> str:
    """What to install for a package that a command wants; empty where it is the platform's own."""
    package = (error.name or "").partition(".")[0]
    if package in ("", "modelyard"):
        return ""
    return (
        f"this needs {package}, which is not installed: "
        "pip install 'modelyard[pipeline,serving,delivery]'"
    )
