"""A Bento from a registered version: by the real command, served from its own folder."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import polars as pl
import pytest
import yaml
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from modelyard.cli import script
from modelyard.documents import ReleaseEvent, Signature
from modelyard.documents.signature import Task
from modelyard.serving.bento.hashes import SHIPPED
from modelyard.serving.testing import serve, stop, write_package

pytestmark = pytest.mark.xdist_group("serving")

CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"
ROW = {"distance": 1400.0, "hour": 17, "wind": 12.5, "carrier": "AA", "dest": "LAX"}


def build(repo: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [script(), "build", *arguments],
        cwd=repo,
        env={k: v for k, v in os.environ.items() if k != "BENTOML_HOME"} | settings,
        capture_output=True,
        text=True,
        timeout=120,
    )


def built(repo: Path, *arguments: str, **settings: str) -> Path:
    """Build, and return the Bento's folder, which the last line of the output ends with."""
    found = build(repo, *arguments, **settings)
    assert found.returncode == 0, found.stderr
    return Path(found.stdout.splitlines()[-1].rpartition(": ")[2])


def contents(folder: Path) -> dict[str, bytes]:
    files = (p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def refused(repo: Path, *arguments: str, **settings: str) -> str:
    """The one message of a build that fails and leaves the store as it was."""
    store = repo / ".modelyard" / "bentoml" / "bentos"
    before = contents(store) if store.is_dir() else {}
    found = build(repo, *arguments, **settings)
    assert found.returncode == 1 and found.stdout == ""
    assert found.stderr.startswith("error: ") and "Traceback" not in found.stderr
    assert (contents(store) if store.is_dir() else {}) == before
    return found.stderr


@pytest.fixture(scope="module")
def bento(
    tmp_path_factory: pytest.TempPathFactory, make_repo: Callable[[Path], Path]
) -> Iterator[Path]:
    """A Bento that is only looked at; no index was asked."""
    repo = make_repo(tmp_path_factory.mktemp("bento") / "flight-delay")
    nowhere = "http://127.0.0.1:9/simple"
    yield built(repo, UV_DEFAULT_INDEX=nowhere, UV_OFFLINE="1", UV_FIND_LINKS="")


def test_the_latest_version_is_built_under_its_name(bento: Path) -> None:
    described = yaml.safe_load((bento / "bento.yaml").read_text())
    assert (described["name"], described["version"]) == ("flight-delay", "2")
    assert described["image"]["python_version"] == f"3.{sys.version_info.minor}"
    assert bento.parts[-5:] == (".modelyard", "bentoml", "bentos", "flight-delay", "2")


def test_the_bento_holds_the_service_the_package_and_no_more(bento: Path) -> None:
    source = bento / "src"
    assert {p.name for p in source.iterdir()} == {
        "README.md", "bentofile.yaml", "packages", "requirements.txt", "sbom.cdx.json",
        "service.py", "uv.txt", "wheels",
    }  # fmt: skip
    assert [p.name for p in (source / "packages").iterdir()] == ["2"]
    assert not list(bento.rglob("pyproject.toml")) and not list(bento.rglob("*.pkl"))
    schemas = yaml.safe_load((bento / "apis" / "openapi.yaml").read_text())["components"]["schemas"]
    assert schemas["Row"]["properties"]["carrier"]["enum"] == ["AA", "B6", "UA"]


def requirements(bento: Path) -> dict[str, list[str]]:
    """Pin or wheel → its hashes, as the container installs them (BentoML's own line has none)."""
    text = (bento / "env" / "python" / "requirements.txt").read_text().replace("\\\n", "")
    lines = [line.split() for line in text.splitlines() if line]
    return {pin: hashes for pin, *hashes in lines if hashes or pin.partition("==")[0] != "bentoml"}


def test_the_container_installs_the_serving_closure_pinned(bento: Path) -> None:
    installed = requirements(bento)
    (wheel,) = (line for line in installed if line.endswith(".whl"))
    digest = hashlib.sha256((bento / "src" / wheel).read_bytes()).hexdigest()
    assert installed.pop(wheel) == [f"--hash=sha256:{digest}"]
    assert all(
        re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", h) for v in installed.values() for h in v
    )
    assert all(installed.values()), "nothing is installed without a hash"
    pins = dict(line.split("==") for line in installed) | {"bentoml": metadata.version("bentoml")}
    assert {"numpy", "onnxruntime", "pyarrow", "uvicorn", "uvloop"} <= pins.keys()
    training = {"dagster", "mlflow", "pandera", "matplotlib", "polars", "hera", "torch", "typer"}
    assert not training & pins.keys()
    assert all(re.fullmatch(r"[0-9][0-9a-z.]*", version) for version in pins.values())
    for line in CONSTRAINTS.read_text().splitlines():
        name, _, version = line.partition(" ;")[0].partition("==")
        if name in pins and ";" not in line:
            assert pins[name] == version
    # One requirement on its own for the line that BentoML adds, and for people: pip takes it.
    listed = (bento / "src" / "requirements.txt").read_text().splitlines()
    assert {line.split()[0] for line in listed} == {f"{n}=={v}" for n, v in pins.items()} | {wheel}
    (uv,) = (bento / "src" / "uv.txt").read_text().splitlines()
    assert f"{uv.split()[0]}\n" in CONSTRAINTS.read_text() and "--hash=sha256:" in uv


def test_the_hashes_are_those_of_the_pins() -> None:
    """Both files are written by `make constraints`: a pin was raised in one of them only."""
    pins = {line.partition(" ;")[0] for line in CONSTRAINTS.read_text().splitlines()}
    shipped = re.findall(r"^([\w.-]+==[^\s;]+)", SHIPPED.read_text(), re.M)
    assert len(shipped) > 70 and not set(shipped) - pins


@pytest.mark.parametrize("name", ["modelyard", "idna"])
def test_another_file_than_the_pinned_one_is_not_installed(
    bento: Path, tmp_path: Path, name: str
) -> None:
    """One that the index gives, and the wheel that comes along."""
    uv = Path(sys.executable).with_name("uv")
    lines = (bento / "src" / "requirements.txt").read_text().splitlines()
    line = next(x for x in lines if x.removeprefix("./wheels/").startswith(name))
    tampered = re.sub(r"sha256:.{6}", "sha256:000000", line)
    for text, ok in ((line, True), (tampered, False), (line.split()[0], False)):
        (tmp_path / "one.txt").write_text(text + "\n")
        done = subprocess.run(
            [uv, "pip", "install", "--no-deps", "--require-hashes", "--no-cache",
             "--target", tmp_path / f"site-{ok}", "-r", tmp_path / "one.txt"],
            cwd=bento / "src", capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert (done.returncode == 0) == ok, done.stderr
        if not ok:
            assert "hash" in done.stderr.lower()


def test_the_bill_of_materials_lists_what_is_installed(bento: Path) -> None:
    text = (bento / "src" / "sbom.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bill = json.loads(text)
    assert re.fullmatch(r"urn:uuid:[0-9a-f-]{36}", bill["serialNumber"])
    listed = {f"{c['name']}=={c['version']}" for c in bill["components"]}
    own = {f"{name}=={metadata.version(name)}" for name in ("bentoml", "modelyard")}
    assert {pin for pin in requirements(bento) if "==" in pin} | own == listed
    assert all(c["purl"] == c["bom-ref"] for c in bill["components"])
    numpy = next(c for c in bill["components"] if c["name"] == "numpy")
    assert "BSD-3-Clause" in numpy["licenses"][0]["expression"] and numpy["description"]
    assert len(bill["dependencies"][0]["dependsOn"]) == len(bill["components"])
    model = bill["metadata"]["component"]
    assert (model["name"], model["version"]) == ("flight-delay", "2")
    package = bento / "src" / "packages" / "2"
    for file in model["components"]:
        digest = hashlib.sha256((package / file["name"]).read_bytes()).hexdigest()
        assert file["hashes"] == [{"alg": "SHA-256", "content": digest}]


def test_a_bill_of_materials_that_is_none_is_found(bento: Path) -> None:
    bill = json.loads((bento / "src" / "sbom.cdx.json").read_text())
    bill["components"][0]["type"] = "package"
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill)) is not None


@pytest.mark.slow
def test_a_graph_that_onnx_cannot_express_brings_torch(
    make_repo: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_FIND_LINKS", os.environ.get("PIP_FIND_LINKS", ""))
    repo = make_repo(tmp_path / "flight-delay")
    packages = repo / ".modelyard" / "packages"
    signature = Signature.model_validate_json((packages / "2" / "signature.json").read_bytes())
    write_package(packages / "3", signature, onnx=False)
    folder = built(repo)
    # The build is named, too: uv holds torch==2.13.0+cpu to the hash of no other version.
    (torch,) = (pin for pin in requirements(folder) if pin.startswith("torch=="))
    bill = json.loads((folder / "src" / "sbom.cdx.json").read_text())
    (listed,) = (c for c in bill["components"] if c["name"] == "torch")
    assert torch == f"torch=={listed['version']}" == f"torch=={metadata.version('torch')}"
    assert requirements(folder)[torch] and "+" not in listed["purl"]
    with serve(folder) as running:
        assert running.client.post("/predict", json={"rows": [ROW]}).status_code == 200


def dockerfile(bento: Path) -> list[str]:
    """The instructions' lines of each stage."""
    text = (bento / "env" / "docker" / "Dockerfile").read_text()
    return re.split(r"^(?=FROM )", text, flags=re.M)[1:]


def test_the_image_has_the_outcome_of_the_install_only(bento: Path) -> None:
    base, install, final = dockerfile(bento)
    assert re.match(r"FROM python:3\.\d+-slim AS base-container\n", base)
    assert install.startswith("FROM base-container AS install\n")
    assert "UV_REQUIRE_HASHES=1" in install and "UV_NO_BUILD=1" in install
    assert "ARG UV_TORCH_BACKEND=cpu" in install
    assert install.index("--require-hashes -r /install/uv.txt") < install.index("pip install uv\n")
    assert install.index("./src/wheels") < install.index("pip install -r $BENTO_PATH")
    assert final.startswith("FROM base-container\n") and "--from=install" in final
    assert "pip install" not in base + final and "USER bentoml" in final
    assert not re.search("build-essential|apt-get|git", base + install + final)


@pytest.mark.slow
def test_a_teams_image(make_repo: Callable[[Path], Path], tmp_path: Path) -> None:
    """Its base, its packages of the system, and its commands; no Python package without a hash."""
    repo = make_repo(tmp_path / "flight-delay")
    service = repo / "bentos" / "service.py"
    given = 'Image(base_image="registry.example/python:3.11").system_packages("libgomp1")'
    image = f"@service(image={given}.run('update-ca-certificates'))"
    text = "from bentoml.images import Image\n" + service.read_text()
    service.write_text(text.replace("@service()", image))
    base, _, final = dockerfile(built(repo))
    assert base.startswith("FROM registry.example/python:3.11 AS base-container\n")
    assert re.search(r"RUN apt-get update && apt-get install .*libgomp1 && .*update-ca", base)
    assert "build-essential" not in base and "apt-get" not in final
    service.write_text(service.read_text().replace(".system_packages", ".python_packages"))
    assert "[project.optional-dependencies] serving" in refused(repo, "--replace")


def test_the_wheel_installs_what_serves(bento: Path, tmp_path: Path) -> None:
    """As the container would, but with no dependencies: into a folder of its own."""
    (wheel,) = (bento / "src" / "wheels").iterdir()
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"modelyard/serving/app/service.py", "modelyard/documents/signature.py"} <= names
    assert not [n for n in names if "pipeline" in n or "delivery" in n or n.endswith(".pyc")]
    assert "modelyard/__init__.py" not in names
    target = str(tmp_path / "site")
    uv = Path(sys.executable).with_name("uv")
    subprocess.run(
        [uv, "pip", "install", "-q", "--no-deps", "--no-index", "--target", target, wheel],
        check=True,
        timeout=60,
    )
    code = "import modelyard.serving.app.service as s; print(s.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=target, capture_output=True, text=True, timeout=60
    )
    assert found.stdout.startswith(target), found.stderr
    found = subprocess.run(
        [Path(target, "bin", "modelyard"), "score", "--help"],
        env={"PYTHONPATH": target}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert found.stdout.startswith("usage: modelyard score "), found.stderr


def test_a_bento_serves_from_its_folder_and_knows_its_version(bento: Path, tmp_path: Path) -> None:
    with serve(bento, HOME=str(tmp_path)) as running:
        model = running.client.get("/model").json()
        assert (model["name"], model["version"]) == ("flight-delay", 2)
        answer = running.client.post("/predict", json={"rows": [ROW]})
        assert answer.status_code == 200 and answer.headers["x-model-version"] == "2"
        metrics = running.client.get("/metrics").text
        assert 'modelyard_score_count{model="flight-delay",version="2"} 1.0' in metrics
        stop(running)
        (log,) = running.predictions.iterdir()
        assert pl.read_parquet(log)["inputs"].to_list() == [ROW]  # nothing is lost by a stop
    assert not list(tmp_path.rglob("*onnxruntime*")), "what its telemetry would have sent"


@pytest.mark.slow
def test_two_bentos_serve_side_by_side(
    make_repo: Callable[[Path], Path], tmp_path: Path, bento: Path
) -> None:
    """Each with a home of its own, so neither wipes the other's counters."""
    other = built(make_repo(tmp_path / "flight-delay"), "--version", "1")
    with serve(bento) as two, serve(other) as one:
        for server, version, requests in ((two, 2, 3), (one, 1, 2)):
            for _ in range(requests):
                assert server.client.post("/predict", json={"rows": [ROW]}).status_code == 200
            count = (
                f'modelyard_score_count{{model="flight-delay",version="{version}"}} {requests}.0'
            )
            assert count in server.client.get("/metrics").text


def test_the_same_content_is_built_once(make_repo: Callable[[Path], Path], tmp_path: Path) -> None:
    repo = make_repo(tmp_path / "flight-delay")
    first = built(repo)
    before = contents(first)
    (repo / "bentos" / "__pycache__").mkdir()
    (repo / "bentos" / "__pycache__" / "service.pyc").write_bytes(b"x")
    again = build(repo)
    assert again.returncode == 0 and "built already" in again.stdout
    assert contents(first) == before


def test_a_changed_service_is_no_silent_rebuild(
    make_repo: Callable[[Path], Path], tmp_path: Path
) -> None:
    """The same version with other content is refused; `--replace` is the way until a release."""
    repo = make_repo(tmp_path / "flight-delay")
    folder = built(repo)
    with (repo / "bentos" / "service.py").open("a") as file:
        file.write("# changed\n")
    message = refused(repo)
    assert "changed: service.py" in message
    assert "make train" in message and "--version 2 --replace" in message
    assert "# changed" in (built(repo, "--replace") / "src" / "service.py").read_text()

    with (repo / "bentos" / "service.py").open("a") as file:
        file.write("import nowhere\n")
    assert "nowhere" in refused(repo, "--replace")  # the old Bento is put back
    assert (folder / "bento.yaml").is_file()

    event = ReleaseEvent(
        time=1, release="r", sequence=0, candidate=2, stable=None, phase="preflight", weight=0
    )
    (repo / ".modelyard" / "releases").mkdir()
    (repo / ".modelyard" / "releases" / "r.jsonl").write_text(event.model_dump_json() + "\n")
    assert "was released" in refused(repo, "--replace")


@pytest.mark.slow
def test_an_older_version_stays_as_it_was_built(
    make_repo: Callable[[Path], Path], tmp_path: Path
) -> None:
    """It can be released again whatever `bentos/` holds by now."""
    repo = make_repo(tmp_path / "flight-delay")
    before = contents(built(repo, "--version", "1"))
    with (repo / "bentos" / "service.py").open("a") as file:
        file.write("# changed\n")
    again = build(repo, "--version", "1")
    assert again.returncode == 0 and "stays as it was built" in again.stdout
    assert contents(built(repo, "--version", "1")) == before


@pytest.mark.slow
def test_a_teams_modules_and_requirements_come_along(
    make_repo: Callable[[Path], Path], tmp_path: Path
) -> None:
    repo = make_repo(tmp_path / "flight-delay")
    (repo / "bentos" / "rules").mkdir()
    (repo / "bentos" / "rules" / "late.py").write_text("LATE = 15\n")
    with (repo / "bentos" / "service.py").open("a") as file:
        file.write("from rules.late import LATE\n")
    with (repo / "pyproject.toml").open("a") as file:
        file.write('[project.optional-dependencies]\nserving = ["rich", "matplotlib>=3"]\n')
    nowhere = {"UV_DEFAULT_INDEX": "http://127.0.0.1:9/simple", "UV_NO_CACHE": "1"}
    message = refused(repo, **nowhere)
    assert re.search(r"matplotlib==.*the index can't be asked for their hashes", message)
    source = built(repo) / "src"
    assert (source / "rules" / "late.py").is_file()
    listed = (source / "requirements.txt").read_text()
    assert re.search(r"^matplotlib==\S+ --hash=sha256:", listed, re.M)
    assert re.search(r"^kiwisolver==\S+ --hash=sha256:", listed, re.M)

    with (repo / "pyproject.toml").open("a") as file:
        file.write("more = []\n[tool.x]\n")
    text = (repo / "pyproject.toml").read_text().replace("matplotlib>=3", "no-such-thing")
    (repo / "pyproject.toml").write_text(text)
    assert "no-such-thing is not installed" in refused(repo)


def test_bad_input(make_repo: Callable[[Path], Path], tmp_path: Path) -> None:
    repo = make_repo(tmp_path / "flight-delay")
    packages = repo / ".modelyard" / "packages"
    message = refused(repo, "--version", "7")
    assert "version 7 is not registered" in message and "known: 1, 2" in message
    assert "must be a number or latest" in refused(repo, "--version", "newest")

    with (packages / "2" / "model.pt2").open("ab") as file:
        file.write(b"x")
    assert "model.pt2: changed" in refused(repo)

    (repo / "bentos" / "service.py").rename(repo / "service.py")
    assert "service.py: no such file" in refused(repo, "--version", "1")
    (repo / "bentos" / "service.py").write_text("def broken(:\n")
    assert "bentos/service.py" in refused(repo, "--version", "1")
    (repo / "bentos" / "service.py").write_text("x = 1\n")
    assert "bentos/service.py" in refused(repo, "--version", "1")

    shutil.rmtree(packages)
    assert "make train" in refused(repo)
    (repo / "pyproject.toml").unlink()
    assert "run this in a model repo" in refused(repo)


def test_a_package_from_elsewhere(
    make_repo: Callable[[Path], Path], tmp_path: Path, package: Callable[[Task], Path]
) -> None:
    repo = make_repo(tmp_path / "flight-delay")
    shutil.copytree(package("regression"), tmp_path / "downloaded")
    arguments = ("--package", str(tmp_path / "downloaded"))
    assert "--version N" in refused(repo, *arguments)
    folder = built(repo, *arguments, "--version", "9")
    signature = json.loads((folder / "src" / "packages" / "9" / "signature.json").read_text())
    assert folder.name == "9" and signature["task"] == "regression"
