"""`modelyard check-pin`: a model repo's files name one version of the platform."""

from collections.abc import Sequence
from pathlib import Path

from modelyard.cli import Command

CHECK_PIN = Command(
    "check-pin",
    "See that pin, answers and workflows of a model repo are of one version.",
    "modelyard.cli.check_pin:main",
)
COMMANDS = (CHECK_PIN,)


def main(arguments: Sequence[str]) -> int:
    from modelyard.cli.parser import Parser
    from modelyard.documents import UserError
    from modelyard.documents.pins import disagreements

    Parser(CHECK_PIN).parse_args(arguments)
    if found := disagreements(Path.cwd()):
        lines = "".join(f"  {each}\n" for each in found)
        raise UserError(
            f"the platform's version is not the same everywhere:\n{lines}"
            "Give all of them the commit that the answers name, or revert the update that set "
            "those (`git log -- .copier-answers.yml`) and do it again."
        )
    return 0
