"""model-release, run for real up to what needs GitHub, a Docker engine or a cluster.

Always: valid and freshly rendered policy, the version fetched from MLflow, its Bento, and the
refusal to go on without credentials of the image registry. With skopeo and Debian's
docker-registry installed, also an image that is published already, up to the submitted
workflow. Building and pushing the image needs a Docker engine, and is where tests end.
"""

import hashlib
import io
import json
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from github.api_server import cluster
from support import ROOT, commit, run

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("workflows")]

WORKFLOWS = ROOT / ".github" / "workflows"

REGISTER = """
from pathlib import Path
from modelyard.documents import Signature
from modelyard.documents.signature import Category, Number
from modelyard.pipeline.tracking.registry import register
from modelyard.pipeline.storage.workspace import Workspace
from modelyard.serving.testing import write_package

inputs = (Number(name="distance", minimum=0), Category(name="carrier", values=("AA", "UA")))
signature = Signature(
    task="binary", target="late", inputs=inputs, classes=("on time", "late"),
    example={"distance": 1400.0, "carrier": "AA"},
)
workspace = Workspace(Path.cwd())
write_package(workspace.package, signature, "flight-delay")
assert register(workspace) == 1
"""


def needs(*tools: str) -> pytest.MarkDecorator:
    missing = [tool for tool in tools if shutil.which(tool) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


@pytest.fixture
def repo(model: Path, tmp_path: Path) -> Path:
    """With model-submit laid in: act looks for what model-release calls beside its caller."""
    repo = Path(shutil.copytree(model, tmp_path / "flight-delay"))
    shutil.copy(WORKFLOWS / "model-submit.yml", repo / ".github" / "workflows")
    return repo


@pytest.fixture(scope="module")
def mlflow(model: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An MLflow registry that holds version 1; its URI."""
    folder = tmp_path_factory.mktemp("mlflow")
    trainer = Path(shutil.copytree(model, folder / "flight-delay"))
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    run(sys.executable, "-c", REGISTER, cwd=trainer, MLFLOW_TRACKING_URI=uri)
    return uri


def image_is(repo: Path, repository: str) -> None:
    """The repo asks for an image there, as if it had been answered so to Copier."""
    policy = repo / "argo" / "release.yaml"
    text = policy.read_text().replace("image: ghcr.io/acme/flight-delay", f"image: {repository}")
    assert repository in text
    policy.write_text(text)
    run("make", "render", f"VENV={sys.prefix}", cwd=repo)
    commit(repo, "Another registry")


def release(act, repo: Path, mlflow: str, **settings):
    given = {"MLFLOW_TRACKING_URI": mlflow, "REGISTRY_USERNAME": "acme"}
    variables = {**given, **settings.pop("variables", {})}
    return act(repo, ".github/workflows/release.yml", "push", variables=variables, **settings)


def plant(repo: Path, change: Callable[[dict], None]) -> None:
    """Let the repo call a changed copy of model-release, laid into the repo itself."""
    path = ROOT / ".github" / "workflows" / "model-release.yml"
    # YAML 1.1 reads the key `on` as true.
    workflow = {
        "on" if key is True else key: v for key, v in yaml.safe_load(path.read_text()).items()
    }
    change(workflow)
    folder = repo / ".github" / "workflows"
    (folder / "planted.yml").write_text(yaml.safe_dump(workflow))
    caller = folder / "release.yml"
    called = re.sub(r"uses: \S+ # .*", "uses: ./.github/workflows/planted.yml", caller.read_text())
    caller.write_text(called)


def without_bento(workflow: dict) -> None:
    """Another test builds it, in ten seconds."""
    job = workflow["jobs"]["image"]
    slow = {"Fetch the model package", "Build the Bento"}
    job["steps"] = [step for step in job["steps"] if step.get("name") not in slow]


@pytest.mark.slow
def test_the_bento_of_the_desired_version_is_built_and_goes_nowhere_without_credentials(
    act, repo: Path, mlflow: str
) -> None:
    image_is(repo, "registry.invalid/acme/flight-delay")
    done = release(act, repo, mlflow)

    desired = done.output["Desired version"]
    assert "version=1\n" in desired and "repository=registry.invalid/acme/flight-delay" in desired
    assert f"service={run('git', 'rev-parse', 'HEAD:bentos', cwd=repo).strip()}" in desired
    assert done.steps["Fetch the model package"] == "success"
    assert "flight-delay:1 is built" in done.output["Build the Bento"]
    assert not done.ok and done.failed == ["Log in to the registry"]
    assert "No credentials for registry.invalid" in done.text
    assert not any("release to" in job for job in done.jobs), "nothing goes to a cluster"


@pytest.mark.slow
def test_a_version_that_is_not_registered_is_not_released(act, repo: Path, mlflow: str) -> None:
    policy = repo / "argo" / "release.yaml"
    policy.write_text(policy.read_text().replace("version: 1\n", "version: 7\n"))
    run("make", "render", f"VENV={sys.prefix}", cwd=repo)
    commit(repo, "Release version 7")
    done = release(act, repo, mlflow)
    assert not done.ok and done.failed == ["Fetch the model package"]
    assert "version=7" in done.text and "error: " in done.output["Fetch the model package"]


def test_a_release_needs_a_registry_of_models(act, repo: Path) -> None:
    done = release(act, repo, "")
    assert not done.ok and done.failed == ["Fetch the model package"]
    assert "set the variable MLFLOW_TRACKING_URI" in done.text


@pytest.mark.parametrize("fault", ["stale", "missing"])
def test_nothing_is_built_from_a_stale_or_missing_rendering(act, repo: Path, fault: str) -> None:
    if fault == "missing":
        shutil.rmtree(repo / "argo" / "manifests")
    else:
        policy = repo / "argo" / "release.yaml"
        policy.write_text(policy.read_text().replace("version: 1\n", "version: 2\n"))
    done = release(act, repo, "")
    assert not done.ok and done.failed == ["Rendered manifests"]
    assert done.steps.get("Build the Bento") != "success"


# --- the image is there ---------------------------------------------------------------


@pytest.fixture
def registry(act, tmp_path: Path) -> Iterator[str]:
    """A real image registry on this machine: host:port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    settings = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(tmp_path / "images")}},
        "http": {"addr": address},
    }
    (tmp_path / "registry.yml").write_text(yaml.safe_dump(settings))
    containers = act.home / ".config" / "containers"
    containers.mkdir(parents=True, exist_ok=True)
    (containers / "registries.conf").write_text(
        f'[[registry]]\nlocation = "{address}"\ninsecure = true\n'
    )
    command = ["docker-registry", "serve", str(tmp_path / "registry.yml")]
    with (tmp_path / "registry.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    host, port = address.split(":")
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex((host, int(port))) == 0:
                    break
            time.sleep(0.1)
        yield address
    finally:
        server.terminate()
        server.wait(10)


def push_image(act, folder: Path, reference: str, service: str) -> str:
    """An image with nothing in it but the label that says what it was built from; its digest."""
    folder.mkdir()
    raw = io.BytesIO()
    tarfile.open(fileobj=raw, mode="w").close()

    def blob(data: bytes, kind: str) -> dict:
        digest = hashlib.sha256(data).hexdigest()
        (folder / digest).write_bytes(data)
        return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(data)}

    docker = "application/vnd.docker"
    layer = blob(raw.getvalue(), f"{docker}.image.rootfs.diff.tar")
    configuration = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Labels": {"modelyard.service": service}},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{docker}.distribution.manifest.v2+json",
        "config": blob(json.dumps(configuration).encode(), f"{docker}.container.image.v1+json"),
        "layers": [layer],
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "version").write_text("Directory Transport Version: 1.1\n")
    home = {"HOME": str(act.home)}
    target = f"docker://{reference}"
    run("skopeo", "--insecure-policy", "copy", f"dir:{folder}", target, cwd=folder, **home)
    return run("skopeo", "inspect", "--format={{.Digest}}", target, cwd=folder, **home).strip()


CREDENTIALS = {"REGISTRY_PASSWORD": "of-the-test"}
registry_tools = needs("docker", "docker-registry", "skopeo")
cluster_tools = needs("kubectl", "jq", "curl", "openssl")


@pytest.mark.slow
@registry_tools
@cluster_tools
def test_a_published_image_is_released_by_its_digest(
    act, repo: Path, mlflow: str, registry: str, tmp_path: Path
) -> None:
    image_is(repo, f"{registry}/acme/flight-delay")
    service = run("git", "rev-parse", "HEAD:bentos", cwd=repo).strip()
    digest = push_image(act, tmp_path / "image", f"{registry}/acme/flight-delay:1", service)

    with cluster(tmp_path) as api:
        api.phases = {"flight-delay-staging": "Succeeded", "flight-delay-production": "Succeeded"}
        variables = {"KUBE_SERVER": api.url, "KUBE_CA": api.authority}
        done = release(act, repo, mlflow, variables=variables, secrets=CREDENTIALS, env=api.env)

    assert done.ok, done.text
    assert f"image={registry}/acme/flight-delay@{digest}" in done.text
    assert done.steps.get("Build and push the image") != "success", "a version is built once"
    assert api.audiences == {"modelyard"}
    namespaces = [workflow["metadata"]["namespace"] for workflow in api.submitted]
    assert namespaces == ["flight-delay-staging", "flight-delay-production"]
    for workflow in api.submitted:
        values = {p["name"]: p["value"] for p in workflow["spec"]["arguments"]["parameters"]}
        assert values == {"version": "1", "digest": digest}


@registry_tools
def test_a_published_version_is_never_replaced(
    act, repo: Path, registry: str, tmp_path: Path
) -> None:
    image_is(repo, f"{registry}/acme/flight-delay")
    push_image(act, tmp_path / "image", f"{registry}/acme/flight-delay:1", "another tree")
    plant(repo, without_bento)
    done = release(act, repo, "", secrets=CREDENTIALS)
    assert not done.ok and done.failed == ["Look for a published image"]
    assert "was built from another bentos/ than this commit's" in done.text


@pytest.mark.slow
@registry_tools
def test_what_is_not_published_is_built(act, repo: Path, registry: str) -> None:
    image_is(repo, f"{registry}/acme/flight-delay")
    plant(repo, without_bento)
    no_engine = {"DOCKER_HOST": "unix:///no/docker/engine"}
    done = release(act, repo, "", secrets=CREDENTIALS, env=no_engine)
    assert f"{registry}/acme/flight-delay:1 is not published yet" in done.text
    # Here the line is: building the image needs a Docker engine.
    assert not done.ok and done.failed == ["Build and push the image"]


@needs("docker-registry", "skopeo")
def test_the_bill_of_materials_lies_beside_the_image(
    act, repo: Path, registry: str, tmp_path: Path
) -> None:
    repository = f"{registry}/acme/flight-delay"
    digest = push_image(act, tmp_path / "image", f"{repository}:1", "tree")
    bill = '{"bomFormat": "CycloneDX"}'

    def that_step_only(workflow: dict) -> None:
        job = workflow["jobs"]["image"]
        checkout = job["steps"][0]
        assert checkout["uses"].startswith("actions/checkout@")
        (step,) = (s for s in job["steps"] if s.get("name") == "Attach the bill of materials")
        del step["if"]
        step["env"] = {"IMAGE": f"{repository}@{digest}"}
        source = ".modelyard/bentoml/bentos/flight-delay/1/src"
        built = f"mkdir -p {source} && echo -n '{bill}' > {source}/sbom.cdx.json"
        steps = [checkout, {"run": built}, step]
        workflow["jobs"] = {"image": job | {"steps": steps, "outputs": {}}}
        workflow[True if True in workflow else "on"]["workflow_call"].pop("outputs")

    plant(repo, that_step_only)
    policy = act.home / ".config" / "containers" / "policy.json"  # which GitHub's runners have
    policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    done = release(act, repo, "")
    assert done.ok, done.text
    found = f"docker://{repository}:{digest.replace(':', '-')}.sbom"
    home = {"HOME": str(act.home)}
    manifest = json.loads(run("skopeo", "inspect", "--raw", found, cwd=tmp_path, **home))
    assert manifest["subject"]["digest"] == digest
    assert manifest["artifactType"] == "application/vnd.cyclonedx+json"
    image = run("skopeo", "inspect", "--raw", f"docker://{repository}:1", cwd=tmp_path, **home)
    assert manifest["subject"]["size"] == len(image)
    run(
        "skopeo",
        "--insecure-policy",
        "copy",
        found,
        f"dir:{tmp_path / 'bom'}",
        cwd=tmp_path,
        **home,
    )
    (layer,) = manifest["layers"]
    assert (tmp_path / "bom" / layer["digest"].partition(":")[2]).read_text() == bill


@needs("skopeo", "openssl")
def test_a_registry_that_is_not_trusted_is_not_an_empty_one(
    act, repo: Path, tmp_path: Path
) -> None:
    """`certificate signed by unknown authority` says nothing about the image."""

    def without_login(workflow: dict) -> None:
        without_bento(workflow)
        job = workflow["jobs"]["image"]
        job["steps"] = [s for s in job["steps"] if s.get("name") != "Log in to the registry"]

    plant(repo, without_login)
    with cluster(tmp_path) as untrusted:
        image_is(repo, f"{urlsplit(untrusted.url).netloc}/acme/flight-delay")
        done = release(act, repo, "", secrets=CREDENTIALS)
    assert not done.ok and done.failed == ["Look for a published image"]
    assert "unknown authority" in done.text
    assert "The registry does not say whether" in done.text


# --- the cluster ----------------------------------------------------------------------


@pytest.fixture
def ready(repo: Path) -> Path:
    """A model repo whose release job starts from the committed manifests, without an image."""
    releases = [
        {
            "environment": name,
            "namespace": f"flight-delay-{name}",
            "workflow": (repo / f"argo/manifests/{name}/release/workflow.yaml").read_text(),
        }
        for name in ("staging", "production")
    ]

    def image_job(workflow: dict) -> None:
        workflow["jobs"]["image"] = {
            "runs-on": "ubuntu-24.04",
            "outputs": {
                "first": json.dumps(releases[0]),
                "next": json.dumps(releases[1:]),
                "image": "planted",
            },
            "steps": [{"run": "true"}],
        }

    plant(repo, image_job)
    return repo


@cluster_tools
def test_production_waits_for_staging_and_a_rollback_is_a_failure(
    act, ready: Path, tmp_path: Path
) -> None:
    with cluster(tmp_path) as api:
        api.phases = {"flight-delay-staging": "Failed"}
        variables = {"KUBE_SERVER": api.url, "KUBE_CA": api.authority}
        done = release(act, ready, "", variables=variables, env=api.env)
    assert not done.ok and done.failed == ["Submit and follow"]
    assert [w["metadata"]["namespace"] for w in api.submitted] == ["flight-delay-staging"]
    assert "staging: not promoted" in done.text and "canary: exit code 2" in done.text


def test_a_release_without_a_cluster_is_a_failure(act, ready: Path) -> None:
    done = release(act, ready, "")
    assert not done.ok and done.failed == ["Cluster access"]
    assert "staging was not released: no cluster is configured" in done.text


def test_not_submitting_is_a_choice_in_the_caller(act, ready: Path) -> None:
    caller = ready / ".github" / "workflows" / "release.yml"
    caller.write_text(caller.read_text().replace("submit: true", "submit: false"))
    done = release(act, ready, "")
    assert done.ok and "Cluster access" not in done.steps


def test_the_push_that_creates_main_releases_nothing(act, ready: Path) -> None:
    done = release(act, ready, "", payload={"created": True})
    assert done.ok and not done.jobs
