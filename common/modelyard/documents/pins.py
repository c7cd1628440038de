"""Which commit of the platform a model repo stands on: its files say it, and have to agree.

`pyproject.toml` pins the platform, `.copier-answers.yml` says what the template was rendered from,
the workflows call the platform's. An update moves all of them; one that was left behind (a conflict
that was resolved by `git checkout --ours`) would run code that does not fit the files around it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from modelyard.documents.errors import UserError

ANSWERS = ".copier-answers.yml"
PROJECT = "pyproject.toml"
_PIN = re.compile(r"""modelyard(\[[^]]*])? *@ *git\+(?P<url>[^"'\s]+)@(?P<sha>[0-9a-f]{40})\b""")
_CALL = re.compile(
    r"uses: *(?P<repository>[\w.-]+/[\w.-]+)/[.]github/workflows/model-[\w-]+[.]yml"
    r"@(?P<sha>\S+)(?: *# *(?P<version>\S+))?"
)
_PIN_VERSION = re.compile(r"# *(?P<version>v?[0-9][\w.+-]*|[0-9a-f]{7,40}) *$")
_COMMIT = re.compile(r"^(?:.*-g)?(?P<sha>[0-9a-f]{7,40})$")


class Finding(NamedTuple):
    """Something in a repo that wants a person."""

    file: str
    line: int | None
    what: str

    def __str__(self) -> str:
        return f"{self.file}{'' if self.line is None else f':{self.line}'}: {self.what}"


@dataclass(frozen=True)
class Pin:
    """The platform in pyproject.toml: where it comes from, its commit, and the line."""

    url: str
    sha: str
    version: str | None
    line: int


def read_answers(repo: Path) -> dict[str, Any]:
    """The answers, and Copier's own `_src_path` and `_commit`.

    Raises:
        UserError: there are none: this is no model repo, or not its root.
    """
    try:
        answers = yaml.safe_load((repo / ANSWERS).read_text())
    except FileNotFoundError:
        raise UserError(f"{repo / ANSWERS}: no such file; is this a model repo's root?") from None
    except yaml.YAMLError as error:
        raise UserError(f"{repo / ANSWERS}: not valid YAML: {error}") from None
    if not isinstance(answers, dict) or not {"_commit", "_src_path"} <= answers.keys():
        raise UserError(f"{repo / ANSWERS}: lacks _commit and _src_path, which Copier writes")
    return answers | {"_commit": str(answers["_commit"])}


def read_pin(repo: Path) -> Pin:
    """
    Raises:
        UserError: pyproject.toml pins no commit of the platform.
    """
    path = repo / PROJECT
    lines = path.read_text().splitlines() if path.exists() else []
    for number, line in enumerate(lines, start=1):
        if found := _PIN.search(line):
            said = _PIN_VERSION.search(line)
            return Pin(found["url"], found["sha"], said and said["version"], number)
    raise UserError(
        f'{path}: no commit of the platform is pinned ("modelyard[…] @ git+URL@" and 40 hex digits)'
    )


def disagreements(repo: Path) -> list[Finding]:
    """What pin, answers and workflows do not agree on."""
    pin, answers = read_pin(repo), read_answers(repo)
    version = answers["_commit"]
    found = []
    commit = _COMMIT.match(version)
    if commit and not pin.sha.startswith(commit["sha"]):
        what = f"the platform is pinned to {pin.sha}, {ANSWERS} says {version}"
        found.append(Finding(PROJECT, pin.line, what))
    elif pin.version and pin.version != version:
        what = f"the platform is pinned to {pin.version}, {ANSWERS} says {version}"
        found.append(Finding(PROJECT, pin.line, what))
    for file, line, call in _calls(repo):
        repository = answers.get("repository", call["repository"])
        if call["repository"] != repository:
            what = f"calls {call['repository']}, {ANSWERS} says {repository}"
        elif call["sha"] != pin.sha:
            what = f"calls the platform at {call['sha']}, {PROJECT}:{pin.line} pins {pin.sha}"
        elif call["version"] and call["version"] != version:
            what = f"calls {call['version']}, {ANSWERS} says {version}"
        else:
            continue
        found.append(Finding(file, line, what))
    return found


def _calls(repo: Path) -> Iterator[tuple[str, int, re.Match[str]]]:
    for path in sorted((repo / ".github" / "workflows").glob("*.y*ml")):
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            if found := _CALL.search(line):
                yield path.relative_to(repo).as_posix(), number, found
