"""Commands of `modelyard` in a process that has the packages of the steering extra and no others.

Reads `{"commands": [[...]], "account": PATH}`, writes `[[code, stdout, stderr], ...]`.
"""

import contextlib
import importlib.abc
import io
import json
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


def required() -> set[str]:
    """Distributions that `modelyard[steering]` brings, by what pyproject.toml says now."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    waiting = [*project["dependencies"], *project["optional-dependencies"]["steering"]]
    found: set[str] = set()
    while waiting:
        need = Requirement(waiting.pop())
        if need.marker and not need.marker.evaluate({"extra": ""}):
            continue
        name = canonicalize_name(need.name)
        if name not in found:
            found.add(name)
            waiting += metadata.requires(name) or []
    return found


class Absent(importlib.abc.MetaPathFinder):
    """Finds none of the installed modules that the others have brought."""

    def __init__(self, kept: set[str]) -> None:
        kept = kept | {"modelyard"}
        self._absent = {
            module
            for module, owners in metadata.packages_distributions().items()
            if not kept & {canonicalize_name(owner) for owner in owners}
        }

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.partition(".")[0] in self._absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def run(command: list[str]) -> tuple[int, str, str]:
    from modelyard.cli import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(command)
    return code, out.getvalue(), err.getvalue()


def main() -> None:
    given = json.load(sys.stdin)
    kept = required()
    for name in [each for each in sys.modules if each.partition(".")[0] == "packaging"]:
        del sys.modules[name]
    sys.meta_path.insert(0, Absent(kept))
    from modelyard.delivery.cluster import api, submit

    api.SERVICE_ACCOUNT = Path(given["account"])
    submit.EVERY_S = 0.1
    json.dump([run(command) for command in given["commands"]], sys.stdout)


if __name__ == "__main__":
    main()
