"""`modelyard build`: see `modelyard.serving.bento.build`."""

from collections.abc import Sequence
from pathlib import Path

from modelyard.cli.parser import Parser
from modelyard.serving.bento.build import build
from modelyard.serving.commands import BUILD

MORE = (
    "Run it in a model repo. The Bento store is $BENTOML_HOME, else .modelyard/bentoml. What "
    "bentos/service.py imports beyond modelyard belongs into pyproject.toml's "
    "[project.optional-dependencies] serving."
)


def main(arguments: Sequence[str]) -> int:
    parser = Parser(BUILD, MORE)
    parser.add_argument("--version", default="latest", help="of the model; default: latest")
    parser.add_argument("--package", type=Path, help="a package folder from elsewhere")
    parser.add_argument("--replace", action="store_true", help="build a version anew")
    options = parser.parse_args(arguments)
    build(Path(), options.version, options.package, options.replace)
    return 0
