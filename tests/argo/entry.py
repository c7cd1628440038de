"""The `modelyard` command by its entry point, in this process.

A start of Python takes longer than most of what the tests ask for.
"""

import contextlib
import io
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from modelyard.delivery.commands.app import main


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
        patched.setattr(sys, "argv", ["modelyard", *arguments])
        for name, value in environment.items():
            patched.setenv(name, value)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            with pytest.raises(SystemExit) as ended:
                main()
    return Done(int(ended.value.code or 0), out.getvalue(), err.getvalue())
