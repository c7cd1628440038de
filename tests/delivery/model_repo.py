"""A model repo with tiny but real Bentos, and the `modelyard` command run in it."""

import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import yaml

from modelyard.delivery.local.folders import Folders
from modelyard.delivery.local.process_supervisor import free_port, wait_until
from modelyard.delivery.local.replay import Sender, body
from modelyard.documents import ReleaseEvent
from modelyard.documents import releases as read_releases
from modelyard.documents.layout import STATE
from modelyard.documents.package import REFERENCE, SCORE, SIGNATURE
from modelyard.documents.signature import Number, Signature

BIN = Path(sys.executable).parent

POLICY = {
    "alpha": 0.01,
    "interval": "100ms",
    "deploy": {"max_duration": "60s"},
    "shadow": {"min_requests": 60, "max_duration": "30s"},
    "canary": {
        "steps": [20, 50],
        "min_requests": 20,
        "min_duration": "300ms",
        "max_duration": "30s",
    },
    # Loose: two servers, Envoy and a load generator share a busy test machine.
    "gates": {
        "errors": {"margin": 0.05},
        "latency": {"quantile": 0.5, "ratio": 3.0, "slack": "200ms"},
    },
}


class Users(Sender):
    """Independent load on a repo's Envoy, outside of any controller, from the start of the block
    to its end."""

    def __init__(self, url: str, rate: float) -> None:
        # In no order: with one, a moment's requests to one version are unlike those to the other.
        order = random.Random(0)
        bodies = [body([{"x": order.randrange(97) / 97}]) for _ in range(10_000)]
        super().__init__(url, bodies, lambda: rate)
        self.answers: Counter[int] = Counter()
        """version → good answers"""
        self.failed: list[str] = []
        """what the others said"""

    async def ask(self, client: httpx.AsyncClient, body: bytes) -> bool:
        try:
            reply = await client.post(f"{self.url}/predict", content=body)
        except httpx.HTTPError as error:
            self.failed.append(repr(error))
            return False
        if reply.is_success:
            self.answers[reply.json()["version"]] += 1
        else:
            self.failed.append(f"{reply.status_code} {reply.text}")
        return reply.is_success

    def __enter__(self) -> "Users":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Repo:
    """A model repo in `folder`, whose local environment has a free port."""

    def __init__(self, folder: Path, bento_store: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.faults = folder / "faults"
        self._started: list[subprocess.Popen[str]] = []
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

    def start(
        self, *arguments: str, program: Sequence[str | Path] = (BIN / "modelyard",)
    ) -> subprocess.Popen[str]:
        """`program` stands for the `modelyard` command."""
        process = subprocess.Popen(
            [*program, *arguments],
            cwd=self.folder,
            env={**os.environ, "PLANTED_FAULTS": str(self.faults)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._started.append(process)
        return process

    def end_commands(self) -> None:
        """Those that a failed test left running."""
        for process in self._started:
            process.terminate()
            process.communicate()
        self._started.clear()

    def modelyard(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.finish(self.start(*arguments))

    def finish(self, process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
        """Wait for a command, which must not end in a traceback."""
        try:
            out, err = process.communicate(timeout=300)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        assert "Traceback" not in err, err
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

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

    def wait_for(self, phase: str, weight: int = 0) -> None:
        """Until the newest release got as far as that."""
        assert wait_until(lambda: self._at(phase, weight), 60, every=0.02), self.events()[-1]

    def _at(self, phase: str, weight: int) -> bool:
        last = self.events()[-1]
        return last.decision is None and (last.phase, last.weight) == (phase, weight)

    def predictions(self, version: int) -> Path:
        """The prediction log of a version's servers."""
        return Folders("fixture", self.folder / STATE).predictions(version)

    def events(self) -> list[ReleaseEvent]:
        """Of the newest release."""
        return read_releases(self.folder / ".modelyard" / "releases")[-1]


def package(folder: Path) -> None:
    """What the release reads of a model package: scores are spread evenly from 0 to 1."""
    signature = Signature(task="regression", target="x", inputs=(Number(name="x"),))
    folder.mkdir(parents=True)
    (folder / SIGNATURE).write_text(signature.model_dump_json())
    values = [i / 97 for i in range(97)]
    pl.DataFrame({"x": values, SCORE: values}).write_parquet(folder / REFERENCE)
