"""The commands of docs/how-to/kubernetes.md, as they stand there."""

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from support import GIT_IDENTITY, ROOT

GUIDE = ROOT / "docs" / "how-to" / "kubernetes.md"
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    """In order; what goes on in a further line is one command."""
    found: list[str] = []
    blocks = _BLOCK.findall(GUIDE.read_text())
    for block in (text for language, text in blocks if not language):
        for line in block.splitlines():
            if found and found[-1].endswith(("|", "\\")):
                found[-1] += f"\n{line}"
            else:
                found.append(line.partition("  #")[0])
    return found


def command(beginning: str) -> str:
    """The one that begins so."""
    (found,) = [each for each in commands() if each.startswith(beginning)]
    return found


class Failed(Exception):
    """A command of the guide exited with another code than 0."""


def follow(
    beginning: str, names: Mapping[str, str], folder: Path, environment: Mapping[str, str]
) -> str:
    """Run a command of the guide with one's own names in place of the guide's; what it printed.

    Raises:
        Failed: it exited with another code than 0.
    """
    words = command(beginning)
    for name, own in names.items():
        assert name in words, f"the guide has no {name} in: {words}"
        words = words.replace(name, own)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", words],
        cwd=folder,
        env={**os.environ, **GIT_IDENTITY, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise Failed(f"{words}\nexited with {done.returncode}:\n{done.stdout}")
    return done.stdout
