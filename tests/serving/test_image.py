"""The image of a Bento: built by what can build one here, served with a read-only root.

By docker, or by buildah (root, chroot isolation; with debootstrap for a base, a minute the first
time, which is kept). Where there is neither, these tests are skipped.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from benchmarks.serving import image
from packaging.utils import canonicalize_name
from serving.network import Network, network_of_images
from support import ROOT

from modelyard.cli import script
from modelyard.serving.inference.model import Model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("image"),
    pytest.mark.timeout(900),  # the first of them builds, perhaps from debootstrap on
    pytest.mark.skipif(image.builder() is None, reason=image.NONE),
]

ROW = {"distance": 1400.0, "hour": 17, "wind": 12.5, "carrier": "AA", "dest": "LAX"}
DEPLOYMENT = ROOT / "tests/argo/model/argo/manifests/staging/release/deployment.yaml"
INSTALLED = """
import json
from importlib.metadata import distributions
print(json.dumps([[d.metadata["Name"], d.version] for d in distributions()]))
"""


@pytest.fixture(scope="module")
def bento(tmp_path_factory: pytest.TempPathFactory, make_repo: Callable[[Path], Path]) -> Path:
    repo = make_repo(tmp_path_factory.mktemp("image") / "flight-delay")
    command = [script(), "build"]
    without = {k: v for k, v in os.environ.items() if k != "BENTOML_HOME"}
    subprocess.run(command, cwd=repo, env=without, check=True, timeout=120)
    return repo / ".modelyard" / "bentoml" / "bentos" / "flight-delay" / "2"


@pytest.fixture(scope="module")
def tag(bento: Path) -> Iterator[str]:
    if image.base() is None:
        pytest.skip(image.NONE)
    name = f"modelyard-test-{os.getpid()}:2"
    image.containerize(bento, name)
    yield name
    image.remove(name)


@pytest.fixture(scope="module")
def runner(tag: str) -> Iterator[image.Runner]:
    with image.runner(tag) as running:
        yield running


def test_it_serves_as_a_release_deploys_it(
    runner: image.Runner, bento: Path, tmp_path: Path
) -> None:
    """With the variables of a Deployment and no more, at its port, asked by its probes."""
    deployment = yaml.safe_load(DEPLOYMENT.read_text())
    [pod] = deployment["spec"]["template"]["spec"]["containers"]
    port, probe = pod["ports"][0]["containerPort"], pod["startupProbe"]["httpGet"]["path"]
    variables = {each["name"]: each["value"] for each in pod["env"]}
    url = f"http://127.0.0.1:{port}"
    with started(runner, tmp_path / "log", **variables) as own:
        status, _ = own.ask("GET", url + probe, within_s=180)
        assert status == 200, (tmp_path / "log").read_text()
        _, answer = own.ask("POST", f"{url}/predict", {"rows": [ROW]})
    expected = Model(bento / "src" / "packages" / "2").predict([ROW])
    found = json.loads(answer)
    assert found["predictions"] == [pytest.approx(row) for row in expected]
    assert found["version"] == 2
    assert "Read-only" not in (tmp_path / "log").read_text()


def test_it_serves_at_another_port_and_logs_predictions(
    runner: image.Runner, tmp_path: Path
) -> None:
    variables = {"BENTOML_PORT": "3001", "MODELYARD_PREDICTION_LOG": "/tmp/predictions"}
    with started(runner, tmp_path / "log", **variables) as own:
        status, metrics = own.ask("GET", "http://127.0.0.1:3001/metrics", within_s=180)
    assert status == 200, (tmp_path / "log").read_text()
    assert "modelyard_prediction_log_lost_total" in metrics
    assert "Read-only" not in (tmp_path / "log").read_text()


@contextmanager
def started(runner: image.Runner, log: Path, **variables: str) -> Iterator[Network]:
    """The image's entrypoint, in the network that is given."""
    with network_of_images(image.builder()) as own, log.open("w") as file:
        command = [*own.enter, *runner.command(**variables)]
        server = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
        try:
            yield own
        finally:
            server.terminate()
            server.wait(30)


def test_it_runs_as_nobody_special_on_a_read_only_root(runner: image.Runner) -> None:
    assert int(runner.run("id", "-u").stdout) == 1034
    for folder in ("/", "/app", "/home/bentoml", "/home/bentoml/bento"):
        assert "Read-only" in runner.run("touch", f"{folder}/new").stderr
    assert runner.run("touch", "/tmp/new").returncode == 0
    # Nor could its user change what it runs, where the root is not read-only.
    own = runner.run("find", "/app", "/usr", "!", "-user", "root", "-print", "-quit")
    assert own.stdout == ""


def test_it_holds_no_tools_and_no_pickle(runner: image.Runner) -> None:
    names = "pip pip3 uv gcc cc g++ make git curl"
    search = f"for each in {names}; do command -v $each; done; true"
    assert runner.run("sh", "-c", search).stdout == ""
    for module in ("pip", "setuptools", "ensurepip", "torch", "dagster"):
        for python in ("python", "/usr/bin/env -i PATH=/usr/local/bin:/usr/bin python3"):
            done = runner.run(*python.split(), "-c", f"import {module}")
            assert "No module named" in done.stderr, (python, module)
    unwanted = "*.pkl", "*.pickle", "*.joblib", "*.whl", "*/.cache/pip", "*/.cache/uv"
    named = [part for each in unwanted for part in ("-o", "-path", each)][1:]
    found = runner.run("find", "/", "-xdev", *named)
    own = [line for line in found.stdout.splitlines() if "/src/wheels/modelyard-" not in line]
    assert own == []


def test_the_bill_of_materials_is_what_is_installed(runner: image.Runner, bento: Path) -> None:
    found = json.loads(runner.run("python", "-c", INSTALLED).stdout)
    installed = {(canonicalize_name(name), version) for name, version in found}
    bill = json.loads(runner.run("cat", "src/sbom.cdx.json").stdout)
    assert bill == json.loads((bento / "src" / "sbom.cdx.json").read_text())
    assert {(each["name"], each["version"]) for each in bill["components"]} == installed


def test_an_image_of_another_file_is_not_built(tag: str, bento: Path, tmp_path: Path) -> None:
    """A Bento whose hashes were edited, in both of the places that have them."""
    home = Path(shutil.copytree(bento.parents[2], tmp_path / "bentoml"))
    edited = home / "bentos" / "flight-delay" / "2"
    for folder in ("src", "env/python"):
        path = edited / folder / "requirements.txt"
        forged = re.sub(r"idna==.*?(?=\n[a-z])", forge, path.read_text(), flags=re.S)
        path.write_text(forged)
    with pytest.raises(subprocess.CalledProcessError) as failed:
        image.containerize(edited, f"modelyard-test-{os.getpid()}:edited")
    assert "Hash mismatch for `idna==" in failed.value.stdout + failed.value.stderr


def forge(requirement: re.Match[str]) -> str:
    return re.sub("sha256:.{6}", "sha256:000000", requirement[0])
