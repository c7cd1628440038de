"""What the team's code asks of the platform that the new version no longer has.

pyrefly checks the team's files against the platform's sources as they were and as they are; what is
an error only now is the update's. No environment is needed: what other packages define is unknown
both times.
"""

import json
import subprocess
import sys
import tempfile
import tomllib
from importlib.util import find_spec
from pathlib import Path

from .git import Git

Problem = tuple[str, int, str]
"""file, line, what is wrong"""


def broken_calls(
    platform: Git, before: str, after: str, repo: Path, files: list[str]
) -> list[Problem] | None:
    """What `after` breaks in the Python files; None where pyrefly can't look."""
    if not platform("diff", "--name-only", before, after, "--", "*.py"):
        return []
    if find_spec("pyrefly") is None:
        return None
    known = _check(platform, before, repo, files)
    found = _check(platform, after, repo, files)
    return None if known is None or found is None else sorted(found - known)


def _check(platform: Git, commit: str, repo: Path, files: list[str]) -> set[Problem] | None:
    with tempfile.TemporaryDirectory() as aside:
        sources, report = Path(aside) / "platform", Path(aside) / "report.json"
        platform.write_files(commit, sources)
        project = tomllib.loads((sources / "pyproject.toml").read_text())
        rooms = [sources / room for room in project["tool"]["hatch"]["build"]["dev-mode-dirs"]]
        (Path(aside) / "pyrefly.toml").touch()  # the repo's own may name an environment
        command = [sys.executable, "-m", "pyrefly", "check", "--config", f"{aside}/pyrefly.toml"]
        command += ["--skip-interpreter-query", "--output", f"json:{report}"]
        for folder in [*rooms, repo / "src"]:
            command += ["--search-path", str(folder)]
        subprocess.run([*command, *files], cwd=repo, capture_output=True)
        if not report.exists():  # it ended otherwise than by finding errors
            return None
        errors = json.loads(report.read_text())["errors"]
    return {(e["path"], e["line"], e["concise_description"]) for e in errors}
