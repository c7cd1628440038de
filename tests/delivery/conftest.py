"""A model repo with tiny but real Bentos, and the `modelyard` command run in it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from modelyard.delivery.processes import free_port
from modelyard.documents import ReleaseEvent
from modelyard.documents import releases as read_releases

BIN = Path(sys.executable).parent
FIXTURE = Path(__file__).parent / "bento" / "service.py"
VERSIONS = (1, 2, 3)

POLICY = {
    "alpha": 0.01,
    "interval": "100ms",
    "deploy": {"max_duration": "60s"},
    "shadow": {"min_requests": 60, "max_duration": "30s"},
    "canary": {
        "steps": [20, 50, 100],
        "min_requests": 20,
        "min_duration": "300ms",
        "max_duration": "30s",
    },
    # Loose: two servers, Envoy and a load generator share a busy test machine.
    "gates": {"latency": {"quantile": 0.5, "ratio": 3.0, "slack": "200ms"}},
}


@pytest.fixture(scope="session")
def bento_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BENTOML_HOME with fixture:1, :2 and :3, made by `bentoml build`."""
    context, home = tmp_path_factory.mktemp("context"), tmp_path_factory.mktemp("bentoml")
    shutil.copy(FIXTURE, context)
    settings = {
        "service": "service:Fixture",
        "name": "fixture",
        "include": ["service.py", "version.txt"],
        "python": {"lock_packages": False},
    }
    (context / "bentofile.yaml").write_text(yaml.safe_dump(settings))
    for version in VERSIONS:
        (context / "version.txt").write_text(str(version))
        subprocess.run(
            [BIN / "bentoml", "build", "--version", str(version)],
            cwd=context,
            env={**os.environ, "BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True"},
            check=True,
            stdout=subprocess.DEVNULL,
        )
    return home


class Repo:
    """A model repo in `folder`, whose local environment has a free port."""

    def __init__(self, folder: Path, bento_store: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.faults = folder / "faults"
        self.faults.mkdir(parents=True)
        (folder / "pyproject.toml").write_text('[project]\nname = "fixture"\n')
        (folder / ".modelyard").mkdir()
        (folder / ".modelyard" / "bentoml").symlink_to(bento_store)
        rows = "".join(json.dumps({"x": i % 97 / 97}) + "\n" for i in range(500))
        (folder / "rows.jsonl").write_text(rows)
        self.write_policy(POLICY)

    def write_policy(self, policy: dict[str, Any], rate: int = 150) -> None:
        local = {"platform": "local", "port": self.port, "replay_rate": rate, "policy": policy}
        document = {"version": 1, "image": "ghcr.io/acme/fixture", "environments": {"local": local}}
        (self.folder / "argo").mkdir(exist_ok=True)
        (self.folder / "argo" / "release.yaml").write_text(yaml.safe_dump(document))

    def plant(self, version: int, **faults: object) -> None:
        """Faults of `bento/service.py`, live at once."""
        (self.faults / f"{version}.json.new").write_text(json.dumps(faults))
        (self.faults / f"{version}.json.new").rename(self.faults / f"{version}.json")

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [BIN / "modelyard", *arguments],
            cwd=self.folder,
            env={**os.environ, "PLANTED_FAULTS": str(self.faults)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def modelyard(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments)
        try:
            out, err = process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        assert "Traceback" not in err, err
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def release(self, version: int, *arguments: str) -> tuple[int, dict[str, Any]]:
        """Exit code and final JSON of a release under replayed traffic."""
        done = self.modelyard(*self.command(version), "--json", *arguments)
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout)

    def command(self, version: int) -> list[str]:
        run = ["release", "run", "--env", "local", "--candidate", str(version)]
        return [*run, "--traffic", "replay:rows.jsonl"]

    def answers(self) -> int:
        """The version that answers users now."""
        reply = httpx.post(f"{self.url}/predict", json={"rows": [{"x": 0.5}]}, timeout=10)
        reply.raise_for_status()
        return reply.json()["version"]

    def events(self) -> list[ReleaseEvent]:
        """Of the newest release."""
        return read_releases(self.folder / ".modelyard" / "releases")[-1]


@pytest.fixture
def repo(tmp_path: Path, bento_store: Path) -> Iterator[Repo]:
    """An empty repo: nothing was ever released."""
    repo = Repo(tmp_path / "repo", bento_store)
    yield repo
    repo.modelyard("release", "stop", "--env", "local")


@pytest.fixture
def serving(repo: Repo) -> Repo:
    """A repo whose version 1 is stable."""
    code, result = repo.release(1)
    assert (code, result["decision"]) == (0, "bootstrapped")
    return repo
