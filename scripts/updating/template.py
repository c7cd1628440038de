"""The template, rendered by Copier as it was or is at a commit of the platform."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pathspec
import yaml
from packaging.version import InvalidVersion, Version

from modelyard.documents import UserError

from .git import Git

Answers = Mapping[str, Any]


def newest(platform: Git, now: str) -> str:
    """The commit to update to: the newest version's, or the clone's HEAD for whoever is past it.

    Raises:
        UserError: neither has the present commit in its history.
    """
    versions = {}
    for tag in platform("tag", "--list").split():
        try:
            version = Version(tag)
        except InvalidVersion:
            continue
        if not version.is_prerelease:
            versions[version] = tag
    tags = [versions[max(versions)]] if versions else []
    for name in [*tags, "HEAD"]:
        commit = platform.commit_of(name)
        if commit and platform.contains(commit, now):
            return commit
    raise UserError(
        f"neither the newest version ({', '.join(tags) or 'there is none'}) nor the default branch "
        f"comes after {now[:12]}, which this repo was rendered from; say which one: --to REVISION"
    )


def seeded(platform: Git, *commits: str) -> pathspec.PathSpec:
    """What is the team's once it is there, by copier.yml at any of the commits."""
    patterns: list[str] = []
    for commit in commits:
        patterns += yaml.safe_load(platform("show", f"{commit}:copier.yml"))["_skip_if_exists"]
    return pathspec.PathSpec.from_lines("gitignore", patterns)


def questions(platform: Git, commit: str) -> list[str]:
    """The names of the answers that a person can give."""
    asked = yaml.safe_load(platform("show", f"{commit}:copier.yml"))
    return [
        name
        for name, question in asked.items()
        if not name.startswith("_") and question.get("when") is not False
    ]


def describe(platform: Git, commit: str) -> str:
    """As Copier writes `_commit`."""
    return platform("describe", "--tags", "--always", commit).strip()


def render(
    platform: Git, commit: str, recorded: str | None, address: str, answers: Answers, into: Path
) -> None:
    """Render the template as `commit` has it.

    Args:
        recorded: what `.copier-answers.yml` called the commit, to render that again whatever was
            tagged since; None: as it is called now.
        address: the template's, as recorded; the local clone is used in its place, so that it
            need not exist any more.

    Raises:
        UserError: Copier refuses, mostly an answer.
    """
    given = {name: value for name, value in answers.items() if not name.startswith("_")}
    with tempfile.TemporaryDirectory() as aside:
        source = Path(aside) / "template.git"
        options = ["clone", "--quiet", "--bare", "--shared", str(platform.folder), str(source)]
        platform(*options)
        clone = Git(source)
        configuration = _instead_of(source, address)
        if recorded is not None:
            configuration.append(("core.abbrev", str(_as_called_then(clone, commit, recorded))))
        clone("update-ref", "refs/heads/modelyard-update", commit)
        answers_file = Path(aside) / "answers.yml"
        answers_file.write_text(yaml.safe_dump(given, allow_unicode=True))
        command = [sys.executable, "-m", "copier", "copy", "--quiet", "--defaults"]
        command += ["--vcs-ref", commit, "--data-file", str(answers_file)]
        done = subprocess.run(
            [*command, _reachable(address), str(into)],
            env=os.environ | _environment(configuration) | {"COPIER_CACHE_DIR": f"{aside}/cache"},
            capture_output=True,
            text=True,
        )
    if done.returncode:
        raise UserError((done.stderr or done.stdout).strip())
    record = into / ".copier-answers.yml"
    record.write_text(record.read_text().replace(_reachable(address), address))


def _as_called_then(clone: Git, commit: str, recorded: str) -> int:
    """Leave only the tag by which the commit was called; return the length of its short id."""
    found = re.fullmatch(r"(?:(?P<tag>.+)-[0-9]+-g)?(?P<sha>[0-9a-f]{4,40})", recorded)
    tag = found["tag"] if found else recorded
    for other in clone("tag", "--list").split():
        if other != tag:
            clone("tag", "--delete", other)
    if found is None:
        clone("tag", "--force", recorded, commit)
        return 7
    return len(found["sha"])


def _reachable(address: str) -> str:
    """A folder's address as a URL: Copier looks at folders itself, and one that moved is none."""
    return f"git+file://{address}" if address.startswith("/") else address


def expanded(address: str) -> str:
    """The URL that git gets to see."""
    url = _reachable(address).removeprefix("git+")
    for short, host in {"gh:": "https://github.com/", "gl:": "https://gitlab.com/"}.items():
        if url.startswith(short):
            return host + url.removeprefix(short).lstrip("/")
    return url


def _instead_of(source: Path, address: str) -> list[tuple[str, str]]:
    """Git's own redirection of the address, with and without `.git` at its end."""
    url = expanded(address).removesuffix(".git")
    return [(f"url.{source}.insteadOf", url), (f"url.{source}.insteadOf", f"{url}.git")]


def _environment(configuration: list[tuple[str, str]]) -> dict[str, str]:
    """Git's configuration by environment, after what stands there already."""
    first = int(os.environ.get("GIT_CONFIG_COUNT", 0))
    env = {"GIT_CONFIG_COUNT": str(first + len(configuration))}
    for number, (key, value) in enumerate(configuration, start=first):
        env |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    return env
