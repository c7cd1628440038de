"""The `modelyard` command by its entry point, in this process.

A start of Python takes longer than most of what the tests ask for.
"""

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path

import pytest

from modelyard.cli import main


@dataclass(frozen=True)
class Done:
    """As of `subprocess.run`."""

    returncode: int
    stdout: str
    stderr: str


def modelyard(folder: Path, *arguments: str, **environment: str) -> Done:
    """Run the command in a folder."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patched, contextlib.chdir(folder):
        for name, value in environment.items():
            patched.setenv(name, value)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(arguments)
    return Done(code, out.getvalue(), err.getvalue())
