"""The `modelyard` command: what no other tool does. Releases and rendered manifests."""

import importlib.util
import sys

import typer

from modelyard.documents import UserError

app = typer.Typer(
    name="modelyard",
    help="Releases of a model, and the Kubernetes manifests they need.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

if importlib.util.find_spec("modelyard.delivery.render"):
    from modelyard.delivery.render import render

    app.command()(render)


@app.callback()
def _root() -> None:
    """One command, several subcommands, even while there is one only."""


def main() -> None:
    """Entry point: a user's mistake is printed without a traceback and exits with 1."""
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
