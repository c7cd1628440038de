"""The `modelyard` command: what no other tool does. Releases and rendered manifests."""

import sys

import click
import typer

from modelyard.delivery.commands.release import release_app
from modelyard.delivery.commands.render import render
from modelyard.delivery.extras import installed
from modelyard.documents import UserError

app = typer.Typer(
    name="modelyard",
    help="Releases of a model, and the Kubernetes manifests they need.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


app.add_typer(release_app, name="release")
app.command()(render)


def main() -> None:
    """Entry point: a user's mistake is printed without a traceback and exits with 1.

    A mistake in the command line, too: click's own code for it, 2, means rolled back here.
    """
    try:
        with installed():
            code = app(standalone_mode=False)
        sys.exit(code or 0)
    except click.ClickException as error:
        error.show()
        sys.exit(1)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
