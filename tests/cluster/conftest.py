"""A real cluster: of MODELYARD_TEST_KUBECONFIG, or the node that runs on this machine."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster.cluster import Cluster, connect
from cluster.node import requirements

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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(FOLDER):
            item.add_marker(pytest.mark.cluster)
