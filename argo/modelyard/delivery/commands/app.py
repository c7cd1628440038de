"""`modelyard release …` and `modelyard render`, whose options are typer's."""

from collections.abc import Sequence

import click
import typer

from modelyard.cli import MISTAKE
from modelyard.delivery.commands import RELEASE, RENDER
from modelyard.delivery.commands import render as render_command
from modelyard.delivery.commands.release import release_app

app = typer.Typer(name="modelyard", add_completion=False, pretty_exceptions_enable=False)
app.add_typer(release_app, name=RELEASE.name)
app.command(RENDER.name)(render_command.render)


def release(arguments: Sequence[str]) -> int:
    return _run(RELEASE.name, arguments)


def render(arguments: Sequence[str]) -> int:
    return _run(RENDER.name, arguments)


def _run(name: str, arguments: Sequence[str]) -> int:
    """A mistake in the command line exits with 1: click's own code for it, 2, means rolled back."""
    try:
        code = app([name, *arguments], prog_name="modelyard", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return MISTAKE
    return code or 0
