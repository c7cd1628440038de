"""The arguments of one subcommand."""

import argparse
import sys
from typing import NoReturn

from modelyard.cli import Command
from modelyard.documents import UserError


class Parser(argparse.ArgumentParser):
    """Says what its command is for; what it refuses is a user's mistake like any other."""

    def __init__(self, command: Command, more: str | None = None) -> None:
        super().__init__(prog=f"modelyard {command.name}", description=command.help, epilog=more)

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        raise UserError(message)
