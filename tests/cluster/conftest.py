"""A real cluster: of MODELYARD_TEST_KUBECONFIG, or the node that runs on this machine."""

import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from benchmarks.serving import image
from cluster import guide, models
from cluster.cluster import Cluster, connect
from cluster.node import requirements
from cluster.node.node import PASSWORD, USER
from cluster.repo import SCRIPTS, Repo
from cluster.traffic import Traffic
from support import ROOT, Once

FOLDER = Path(__file__).parent


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    found = connect()
    if isinstance(found, Cluster):
        return found
    if requirements.required():
        pytest.fail(f"{requirements.REQUIRED} is set, and a cluster {found}", pytrace=False)
    pytest.skip(f"tests/cluster: {found}")


@pytest.fixture(scope="module")
def model_namespace(cluster: Cluster) -> Iterator[Callable[[str], str]]:
    """`model_namespace("flight-delay")`: a namespace for a model, with a careful administrator's
    rules; its name. It goes with the module's end."""
    made: list[str] = []

    def make(name: str = "model") -> str:
        made.append(f"{name}-{uuid.uuid4().hex[:6]}")
        cluster.make_namespace(made[-1])
        return made[-1]

    yield make
    for name in made:
        cluster.delete_namespace(name)


@pytest.fixture(scope="session")
def model_images(cluster: Cluster, once: Once) -> dict[int, str]:
    """Digests of the test model's versions, in the models' registry."""
    user = (USER, PASSWORD) if cluster.credentials else ()

    def push(folder: Path) -> None:
        pushed = models.push(cluster.registry, *user)
        (folder / "digests.json").write_text(json.dumps(pushed))

    pushed = json.loads((once("models", push) / "digests.json").read_text())
    return {int(version): digest for version, digest in pushed.items()}


@pytest.fixture(scope="session")
def shared_objects(cluster: Cluster, once: Once) -> None:
    """What an administrator applies once: the guide's first commands."""
    once("shared-objects", lambda folder: share(cluster, folder))


def share(cluster: Cluster, folder: Path) -> None:
    if image.builder() == "buildah":
        (folder / "docker").write_text(DOCKER.format(base=image.base(), user=f"{USER}:{PASSWORD}"))
        (folder / "docker").chmod(0o755)
    found = dict(cluster.environment)
    path = {"PATH": f"{folder}:{SCRIPTS}:{found['PATH']}"}
    tag = f"{cluster.registry}/modelyard-delivery:0.2.0"
    names = {"ghcr.io/YOUR-ORG/modelyard-delivery:0.2.0": tag}
    for beginning in ("docker build", "docker push"):
        guide.follow(beginning, names, ROOT, found | path)
    # By its digest: a node that runs from one test run to the next has an earlier image of the tag.
    names = dict.fromkeys(names, cluster.push(tag, "modelyard-delivery"))
    guide.follow("modelyard manifests", names, ROOT, found | path)


DOCKER = """\
#!/bin/sh
# The two commands of the guide, by buildah.
command=$1; shift
case $command in
build) exec buildah build --quiet --isolation=chroot --layers --build-arg=BASE={base} "$@" ;;
push) exec buildah push --quiet --tls-verify=false --disable-compression --creds={user} "$@" ;;
esac
exit 1
"""


@pytest.fixture(scope="module")
def model_repos(
    cluster: Cluster,
    shared_objects: None,
    model_images: dict[int, str],
    render: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[..., Repo]]:
    """`model_repos(approval=True, …)`: a repo with a namespace of its own to release to, and its
    base objects applied, by the guide; with changes of its environment."""
    made: list[str] = []

    def make(image: str = models.MODEL, **changes: Any) -> Repo:
        made.append(f"model-{uuid.uuid4().hex[:6]}")
        folder = render(tmp_path_factory.mktemp("repo") / models.MODEL)
        repo = Repo(cluster, folder, made[-1], f"{cluster.registry}/{image}", model_images)
        repo.follow("kubectl create namespace")
        repo.follow("kubectl label namespace")
        cluster.make_namespace(repo.namespace)
        repo.ask_for(models.GOOD)
        repo.apply(**changes)
        cluster.give_pull_secret(repo.namespace, models.MODEL, "modelyard-release")
        return repo

    yield make
    for name in made:
        cluster.delete_namespace(name)


@pytest.fixture
def url(cluster: Cluster) -> Iterator[str]:
    """Of the Gateway."""
    with cluster.gateway() as found:
        yield found


@pytest.fixture
def users(repo: Repo, url: str) -> Iterator[Traffic]:
    """Of the module's own `repo`, of whom none is to fail."""
    with repo.users(url) as users:
        yield users
    assert users.failed() == [], users


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(FOLDER):
            item.add_marker(pytest.mark.cluster)
