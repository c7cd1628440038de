"""What a release stands on goes away in the middle of it: users are never worse off.

These faults hit every namespace of the cluster, so nothing else runs beside them.
"""

import time
from collections.abc import Callable

import pytest
from cluster import models
from cluster.cluster import Cluster
from cluster.models import GOOD, OTHER_GOOD
from cluster.node.node import PASSWORD, USER
from cluster.repo import POLICY, Release, Repo
from cluster.traffic import Traffic

pytestmark = [pytest.mark.timeout(900), pytest.mark.alone]

OWN = "outages"
"""whose images no node has pulled before"""


@pytest.fixture(scope="module")
def repo(cluster: Cluster, model_repos: Callable[..., Repo]) -> Repo:
    """A repo whose first version serves all users."""
    cluster.own("without what a release stands on")
    models.push(f"{cluster.registry}/{OWN}", USER, PASSWORD)
    found = model_repos(image=f"{OWN}/{models.MODEL}")
    found.released(GOOD)
    return found


def in_mid_canary(repo: Repo) -> Release:
    """Of the version that does not serve all users."""
    (stable,) = repo.weights()
    release = repo.release(OTHER_GOOD if stable == GOOD else GOOD)
    repo.reaches("canary", release.version)
    return release


def promoted(release: Release) -> None:
    assert release.end() == 0, release
    assert release.repo.weights() == {release.version: 100}


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
    release = in_mid_canary(repo)
    cluster.restart_argo()
    promoted(release)


def test_prometheus_is_gone(cluster: Cluster, repo: Repo, users: Traffic) -> None:
    """For a minute, and its data with it: nothing is decided meanwhile."""
    release = in_mid_canary(repo)
    with cluster.prometheus_gone():
        weights = repo.weights()
        time.sleep(60)
        assert repo.weights() == weights, "no evidence is none"
    promoted(release)


def test_the_api_server_is_gone(cluster: Cluster, repo: Repo, users: Traffic) -> None:
    release = in_mid_canary(repo)
    with cluster.gone("apiserver"):
        time.sleep(30)
    try:
        promoted(release)
    finally:
        cluster.restart_argo()  # which spins from then on
