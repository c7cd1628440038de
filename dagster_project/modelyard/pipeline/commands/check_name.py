"""Refuses a model's name that would hide another Python package: a part of `make setup`.

    modelyard check-name

Run after the platform is installed and before the repo's own package is: from then on, an
`import onnx` would find a model called onnx.
"""

import json
import keyword
import re
import sys
import tomllib
from collections.abc import Sequence
from importlib.metadata import Distribution, distributions, packages_distributions
from pathlib import Path

from modelyard.cli.parser import Parser
from modelyard.documents import UserError
from modelyard.pipeline.commands import CHECK_NAME


def problem(root: Path) -> str:
    """What is wrong with the names in a repo's pyproject.toml; empty if nothing is."""
    settings = tomllib.loads((root / "pyproject.toml").read_text())
    name, package = settings["project"]["name"], settings["tool"]["dg"]["project"]["root_module"]
    if keyword.iskeyword(package):
        return f"`{package}` is a word of Python's own"
    if package in sys.stdlib_module_names or package == "test":
        return f"`{package}` is a module of Python's own"
    if (root / package).is_dir():
        return f"`{package}` is also the folder {package}/ of this repo"
    for other in distributions():
        if _normal(other.name) == _normal(name) and not _is_at(other, root):
            return f"{other.name} {other.version}, which the platform needs, has this name"
    owners = [o for o in packages_distributions().get(package, []) if _normal(o) != _normal(name)]
    return f"`{package}` is a package of {owners[0]}, which would be hidden" if owners else ""


def _normal(name: str) -> str:
    """A distribution's name by PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _is_at(installed: Distribution, root: Path) -> bool:
    """Whether it is this very repo, installed in place by an earlier `make setup`."""
    origin = installed.read_text("direct_url.json")
    return bool(origin) and json.loads(origin).get("url") == root.resolve().as_uri()


def main(arguments: Sequence[str]) -> int:
    Parser(CHECK_NAME).parse_args(arguments)
    root = Path.cwd()
    if said := problem(root):
        name = tomllib.loads((root / "pyproject.toml").read_text())["project"]["name"]
        raise UserError(
            f"a model cannot be called {name}: {said}. The repo is not installed; make it "
            "again by `copier copy` with another project_name"
        )
    return 0
