"""`act`: GitHub workflows run for real on this machine, without Docker."""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import commit, run

BIN = Path(sys.prefix) / "bin"


@dataclass(frozen=True)
class Run:
    """What a run did: jobs and steps by name, with `success`, `failure` or `skipped`."""

    ok: bool
    jobs: dict[str, str]
    steps: dict[str, str]
    output: dict[str, str]
    """step → what it printed"""

    @property
    def text(self) -> str:
        return "\n".join(self.output.values())

    @property
    def failed(self) -> list[str]:
        return [step for step, result in self.steps.items() if result == "failure"]


class Act:
    """Runs one of a model repo's workflows on a copy of its work tree.

    act puts that copy in place of what actions/checkout would fetch, and takes the
    platform's reusable workflows out of a local repository. All else is what GitHub's
    runner would do: expressions, inputs, secrets, outputs, conditions, shells.
    """

    def __init__(self, home: Path, platform: Path) -> None:
        self.home, self.platform = home, platform

    def __call__(
        self,
        repo: Path,
        workflow: str | Path,
        event: str,
        *,
        variables: dict[str, str] | None = None,
        secrets: dict[str, str] | None = None,
        env: dict[str, str] | None = None,
        payload: dict[str, object] | None = None,
    ) -> Run:
        given = {"VENV": sys.prefix, "BASH_ENV": str(self._linger()), **(env or {})}
        command = [BIN / "act", event, "--json", "--workflows", workflow, "--pull=false"]
        command += ["--platform", "ubuntu-24.04=-self-hosted"]
        command += ["--action-cache-path", self.home / "actions"]
        for pin in self._pins(repo):
            command += ["--local-repository", f"{pin}={self.platform}"]
        for option, values in {"var": variables, "secret": secrets, "env": given}.items():
            for name, value in (values or {}).items():
                command += [f"--{option}", f"{name}={value}"]
        event_file = self.home / "event.json"
        event_file.write_text(json.dumps(payload or {}))
        command += ["--eventpath", event_file]
        done = subprocess.run(
            [str(part) for part in command],
            cwd=repo,
            env={**os.environ, "HOME": str(self.home), "GIT_TERMINAL_PROMPT": "0"},
            capture_output=True,
            text=True,
            timeout=240,
        )
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        assert lines or done.returncode == 0, done.stderr
        return _read(done.returncode == 0, lines)

    def _linger(self) -> Path:
        """What bash runs first. act drops the last output of a step that fails at once."""
        path = self.home / "linger.sh"
        path.write_text("unset BASH_ENV\ntrap 'test $? = 0 || sleep 0.5' EXIT\n")
        return path

    @staticmethod
    def _pins(repo: Path) -> set[str]:
        """`owner/name@sha` of all reusable workflows that the repo calls."""
        called = r"uses: ([\w.-]+/[\w.-]+)/[.]github/workflows/\S+@(\w+)"
        texts = [path.read_text() for path in (repo / ".github" / "workflows").glob("*.yml")]
        return {"@".join(found) for text in texts for found in re.findall(called, text)}


def _read(ok: bool, lines: list[dict]) -> Run:
    steps, jobs, output = {}, {}, {}
    for line in lines:
        step = line.get("step", "")
        if "jobResult" in line:
            jobs[line["job"].strip()] = line["jobResult"]
        elif "stepResult" in line and line.get("stage", "Main") == "Main":
            steps[step] = line["stepResult"]
        else:
            output[step] = output.get(step, "") + line["msg"].rstrip("\n") + "\n"
    return Run(ok, jobs, steps, output)


@pytest.fixture(scope="session")
def act(platform: Path, tmp_path_factory: pytest.TempPathFactory) -> Act:
    return Act(tmp_path_factory.mktemp("act"), platform)


@pytest.fixture(scope="session")
def model(render, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repo with rendered manifests and one quick test in place of its own."""
    repo = render(tmp_path_factory.mktemp("model") / "flight-delay", example=False)
    for path in (repo / "tests").glob("*.py"):
        path.unlink()
    (repo / "tests" / "test_team.py").write_text(
        "from pathlib import Path\n\n\ndef test_the_teams_own() -> None:\n"
        '    assert Path("config.yaml").exists()\n'
    )
    run("make", "render", f"VENV={sys.prefix}", cwd=repo)
    commit(repo, "Render the manifests")
    return repo
