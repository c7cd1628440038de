"""What a release stands on goes away in the middle of it: users are never worse off.

These faults hit every namespace of the cluster, so nothing else runs beside them.
"""

import time
from collections.abc import Callable, Iterator

import pytest
from benchmarks.serving import image
from cluster import models
from cluster.cluster import Cluster
from cluster.models import GOOD, OTHER_GOOD
from cluster.node.node import PASSWORD, USER
from cluster.repo import POLICY, Repo
from cluster.traffic import Traffic

pytestmark = [pytest.mark.timeout(900), pytest.mark.alone]

OWN = "outages/flight-delay"
"""an image that no node has pulled before"""


@pytest.fixture(scope="module")
def repo(cluster: Cluster, model_repos: Callable[..., Repo]) -> Repo:
    """A repo whose first version serves all users."""
    cluster.own("without what a release stands on")
    reference = f"{cluster.registry}/{OWN}"
    for version, tag in models.build().items():
        image.push(tag, f"{reference}:{version}", USER, PASSWORD)
    found = model_repos(image=OWN)
    found.released(GOOD)
    return found


@pytest.fixture
def users(cluster: Cluster, repo: Repo) -> Iterator[Traffic]:
    """None of whom is to fail."""
    with cluster.gateway() as url, repo.users(url) as users:
        yield users
    assert users.failed() == [], users


def other(repo: Repo) -> int:
    """Than the one that serves all users."""
    (stable,) = repo.weights()
    return OTHER_GOOD if stable == GOOD else GOOD


def test_a_registry_that_is_gone(cluster: Cluster, repo: Repo, users: Traffic) -> None:
    """A candidate whose image can't be pulled is rolled back; the next try finds it."""
    repo.apply(policy=POLICY | {"deploy": {"max_duration": "30s"}})
    with cluster.gone("registry"):
        release = repo.released(OTHER_GOOD, code=2)
    assert "ImagePull" in repo.events()[-1]["reason"] or "ErrImage" in repo.events()[-1]["reason"]
    assert repo.weights() == {GOOD: 100}, release
    repo.apply(policy=POLICY)
    repo.released(OTHER_GOOD)
    assert repo.weights() == {OTHER_GOOD: 100}


def test_argos_controller_is_restarted(cluster: Cluster, repo: Repo, users: Traffic) -> None:
    candidate = other(repo)
    release = repo.release(candidate)
    repo.reaches("canary", candidate)
    cluster.restart_argo()
    assert release.end() == 0, release
    assert repo.weights() == {candidate: 100}


def test_prometheus_is_gone(cluster: Cluster, repo: Repo, users: Traffic) -> None:
    """For a minute, and its data with it: nothing is decided meanwhile."""
    candidate = other(repo)
    release = repo.release(candidate)
    repo.reaches("canary", candidate)
    with cluster.prometheus_gone():
        weights = repo.weights()
        time.sleep(60)
        assert repo.weights() == weights, "no evidence is none"
    assert release.end() == 0, release
    assert repo.weights() == {candidate: 100}


def test_the_api_server_is_gone(cluster: Cluster, repo: Repo, users: Traffic) -> None:
    candidate = other(repo)
    release = repo.release(candidate)
    repo.reaches("canary", candidate)
    with cluster.gone("apiserver"):
        time.sleep(30)
    assert release.end() == 0, release
    assert repo.weights() == {candidate: 100}
    cluster.restart_argo()  # see there
