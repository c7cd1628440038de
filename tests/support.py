"""What tests of several rooms need: commands, commits, the bare Copier."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
GIT_IDENTITY = {
    f"GIT_{role}_{what}": value
    for role in ("AUTHOR", "COMMITTER")
    for what, value in {"NAME": "modelyard", "EMAIL": "modelyard@localhost"}.items()
}


Once = Callable[[str, Callable[[Path], object]], Path]
"""the fixture `once`"""


def run(*command: str | Path, cwd: Path, check: bool = True, **env: str) -> str:
    """Run a command; return what it printed, both streams in one."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **GIT_IDENTITY, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert not check or done.returncode == 0, f"{command} gave {done.returncode}:\n{done.stdout}"
    return done.stdout


def commit(repo: Path, message: str, tag: str | None = None) -> None:
    """Commit all of a repository, which is made where it is none yet."""
    if not (repo / ".git").exists():
        run("git", "init", "--quiet", "--initial-branch=main", cwd=repo)
    run("git", "add", "--all", cwd=repo)
    run("git", "commit", "--quiet", "--allow-empty", "--message", message, cwd=repo)
    if tag:
        run("git", "tag", tag, cwd=repo)


def copier(*arguments: str | Path, cwd: Path, check: bool = True) -> str:
    """The bare command line, without --trust, as a user runs it."""
    return run(Path(sys.executable).with_name("copier"), *arguments, cwd=cwd, check=check)
