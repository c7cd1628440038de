"""The `modelyard` command: each room names its subcommands; one is imported when it is run.

`modelyard --help` imports no room's code, so it is as quick as Python itself. What all subcommands
have in common is here and in `parser`: how they are found, and how they end.
"""

import importlib
import importlib.util
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
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

    A user's mistake (`UserError`) is one message on stderr, without a traceback. An interrupted
    command may say how to go on by `KeyboardInterrupt(how)`.
    """
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or [""]
    if name == "--version":
        from modelyard.documents.version import platform_version

        print(platform_version())
        return 0
    commands = {command.name: command for command in found_commands()}
    if name in ("", "-h", "--help"):
        print(_listed(commands.values()))
        return 0 if name else MISTAKE
    if name not in commands:
        print(f"error: no such command: {name}\n\n{_listed(commands.values())}", file=sys.stderr)
        return MISTAKE
    return _ended(commands[name], rest)


def found_commands() -> Iterator[Command]:
    """The subcommands of all rooms that are here: an image holds only one of them."""
    for entry in entry_points(group=GROUP):
        if importlib.util.find_spec(".".join(entry.module.split(".")[:2])):
            yield from entry.load()


def script() -> Path:
    """The `modelyard` of this environment, for a process of its own."""
    import sysconfig

    return Path(sysconfig.get_path("scripts"), "modelyard")


@contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """A polite kill unwinds, as ctrl-C does: locks are let go of, temporary files removed."""

    def end(*_: object) -> None:
        sys.exit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def installed(extra: str) -> Iterator[None]:
    """Raises: UserError: a package is missing, with what to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "modelyard"):
            raise
        from modelyard.documents import UserError

        raise UserError(
            f"this needs {package}, which is not installed: pip install 'modelyard[{extra}]'"
        ) from None


def _listed(commands: Iterable[Command]) -> str:
    lines = [f"  {command.name:<12}{command.help}" for command in sorted(commands)]
    return "\n".join(
        [
            "usage: modelyard COMMAND …",
            "",
            *lines,
            "",
            "`modelyard COMMAND --help` says more, `modelyard --version` which one this is.",
        ]
    )


def _ended(command: Command, arguments: Sequence[str]) -> int:
    """The exit code of a subcommand, however it ends."""
    try:
        with installed(extra=command.target.split(".")[1]):
            return _loaded(command.target)(arguments)
    except KeyboardInterrupt as error:
        print("; ".join(["interrupted", *map(str, error.args)]), file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        # Here, so that a list of the commands needs no pydantic.
        from modelyard.documents import UserError

        if not isinstance(error, UserError):
            raise
        print(f"error: {error}", file=sys.stderr)
        return MISTAKE


def _loaded(target: str) -> Callable[[Sequence[str]], int]:
    module, _, function = target.partition(":")
    return getattr(importlib.import_module(module), function)
