"""Releases on a cluster by the guide's commands, with users at its Gateway.

Restricted namespaces, denied networks, quotas, Argo's Strict, a registry that asks for
credentials: what a careful administrator sets up, and nothing else.
"""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from cluster.cluster import Cluster
from cluster.models import FAULTY, GOOD, OTHER_GOOD
from cluster.repo import POLICY, Release, Repo
from cluster.traffic import Traffic
from support import run

pytestmark = [pytest.mark.timeout(900)]

Make = Callable[..., Repo]


@pytest.fixture
def repo(model_repos: Make) -> Repo:
    """Whose first version serves all users."""
    found = model_repos()
    found.released(GOOD)
    return found


def last(repo: Repo) -> dict[str, Any]:
    """Event of the record."""
    return repo.events()[-1]


@pytest.mark.xdist_group("walk")
def test_three_releases_and_the_way_back(cluster: Cluster, model_repos: Make, url: str) -> None:
    # So that the faulty version has its 400 requests before it could be promoted.
    canary = POLICY["canary"] | {"min_requests": 150}
    shadow = POLICY["shadow"] | {"min_requests": 250}
    repo = model_repos(policy=POLICY | {"shadow": shadow, "canary": canary})
    if cluster.node:  # and its git server
        let_write_back(repo)

    first = repo.released(GOOD)
    print(f"first release: {first.seconds:.0f} s")
    assert first.nodes() == {"deploy": "Succeeded"}, "no node without work"
    assert repo.weights() == {GOOD: 100}
    with repo.users(url) as users:
        second = repo.released(OTHER_GOOD)
        print(f"second release: {second.seconds:.0f} s")
        assert repo.weights() == {OTHER_GOOD: 100}
        assert second.nodes().keys() == {"deploy", "shadow", "canary", "promote"}
        assert users.failed() == [], users

        repo.ask_for(FAULTY)
        if cluster.node:
            run("git", "push", "--quiet", "origin", "main", cwd=repo.folder)
        third = repo.submit()
        assert third.end() == 2, third
        assert third.phase == "Failed"
        assert repo.weights() == {OTHER_GOOD: 100}
        assert last(repo)["decision"] == "rolled_back" and "errors" in last(repo)["reason"]
        # None, where the shadow sees it.
        assert users.failed_beside(FAULTY) == [] and len(users.failed()) < 60, users

        if cluster.node:
            merge_the_way_back(repo)
        else:
            repo.ask_for(OTHER_GOOD)
        back = repo.submit()
        assert back.end() == 0, back
        assert back.nodes() == {"deploy": "Succeeded"} and back.phase == "Succeeded"
        time.sleep(2)
        since = time.time() - 2
        assert users.by_version(since).keys() == {OTHER_GOOD} and not users.failed(since), users


def let_write_back(repo: Repo) -> None:
    folder, address, token = repo.cluster.git(repo.namespace)
    run("git", "remote", "add", "origin", folder, cwd=repo.folder)
    credentials = repo.folder.parent / "credentials"
    credentials.mkdir()
    (credentials / "token").write_text(token)
    repo.follow(
        "kubectl -n flight-delay-production create secret generic modelyard-git --from-file=token",
        credentials,
    )
    repo.ask_for(GOOD, repository=address)
    repo.apply()


def merge_the_way_back(repo: Repo) -> None:
    """The one branch that the cluster pushed."""
    run("git", "fetch", "--quiet", "origin", cwd=repo.folder)
    branches = run("git", "branch", "--remotes", "--format=%(refname:short)", cwd=repo.folder)
    (branch,) = [each for each in branches.split() if "/modelyard/production-" in each]
    run("git", "merge", "--quiet", branch, cwd=repo.folder)
    policy = yaml.safe_load((repo.folder / "argo" / "release.yaml").read_text())
    assert (policy["version"], policy["digest"]) == (OTHER_GOOD, repo.digests[OTHER_GOOD])
    (evidence,) = (repo.folder / "argo" / "releases").glob("production-*.json")
    assert "errors" in evidence.read_text()


@pytest.mark.xdist_group("record")
@pytest.mark.long
def test_a_record_that_is_lost_or_edited(repo: Repo, users: Traffic) -> None:
    lose_the_record(repo)
    repo.released(OTHER_GOOD)
    assert repo.weights() == {OTHER_GOOD: 100}
    assert any("there was no record" in each["reason"] for each in repo.events())

    release = repo.release(GOOD)
    repo.reaches("canary", GOOD)
    edit_the_record(repo)
    assert release.end() == 1, release
    assert "its e-values do not follow from its counts" in repr(release), release
    assert repo.weights() == {OTHER_GOOD: 100}


def lose_the_record(repo: Repo) -> None:
    names = [each["metadata"]["name"] for each in repo.records()]
    assert names
    repo.cluster.kubectl("delete", "configmap", *names, "-n", repo.namespace)


def edit_the_record(repo: Repo) -> None:
    """Make the newest counts look better."""
    found = max(repo.records(), key=lambda each: each["metadata"]["creationTimestamp"])
    for key, text in sorted(found["data"].items(), reverse=True):
        event = json.loads(text)
        if event["verdicts"]:
            event["evidence"]["counts"]["candidate"]["requests"] += 5000
            patch = {"data": {key: json.dumps(event)}}
            repo.cluster.kubectl(
                "patch", "configmap", found["metadata"]["name"], "-n", repo.namespace,
                "--type=merge", "-p", json.dumps(patch),
            )  # fmt: skip
            return
    pytest.fail("no event has verdicts")


@pytest.mark.xdist_group("pods")
@pytest.mark.long
def test_pods_of_the_workflow_are_lost_in_every_phase(
    cluster: Cluster, repo: Repo, users: Traffic
) -> None:
    """A machine is drained, or runs out of memory: each node is tried again and goes on."""
    release = repo.release(OTHER_GOOD)
    (deploy,) = cluster.eventually(lambda: release.pods("deploy"))
    cluster.kubectl("delete", "pod", deploy, "-n", repo.namespace, "--wait=false")
    repo.reaches("shadow", OTHER_GOOD)
    if cluster.node:
        (shadow,) = cluster.eventually(lambda: release.pods("shadow"))
        cluster.kill(repo.namespace, shadow)
    repo.reaches("canary", OTHER_GOOD)
    (canary,) = cluster.eventually(lambda: release.pods("canary"))
    cluster.kubectl("delete", "pod", canary, "-n", repo.namespace, "--force", "--grace-period=0")
    assert release.end() == 0, release
    assert repo.weights() == {OTHER_GOOD: 100}


@pytest.mark.xdist_group("candidate")
@pytest.mark.long
def test_a_candidate_whose_pod_is_lost_costs_little(cluster: Cluster, repo: Repo, url: str) -> None:
    with repo.users(url) as users:
        release = repo.release(OTHER_GOOD)
        repo.reaches("canary", OTHER_GOOD)
        labels = f"app.kubernetes.io/version={OTHER_GOOD}"
        cluster.kubectl("delete", "pod", "-n", repo.namespace, "-l", labels, "--wait=false")
        # Nobody is sent to silent servers.
        cluster.eventually(lambda: repo.weights() == {GOOD: 100}, 30)
        code = release.end()
        assert code in (0, 2), release
        assert repo.weights() == {OTHER_GOOD if code == 0 else GOOD: 100}
        # At 25 and 50 % of 30 a second, for as long as a look takes.
        assert len(users.failed()) <= 60, users


@pytest.mark.xdist_group("lock")
@pytest.mark.long
def test_two_at_once_and_a_lock_of_the_dead(repo: Repo, users: Traffic) -> None:
    hold_the_lease(repo)
    repo.ask_for(OTHER_GOOD)
    one, two = repo.submit(), repo.submit()
    assert (one.end(), two.end()) == (0, 0), f"{one}\n{two}"
    assert sorted(map(len, (one.nodes(), two.nodes()))) == [1, 4], "one found it done"
    assert repo.weights() == {OTHER_GOOD: 100}


def hold_the_lease(repo: Repo) -> None:
    """As a pod leaves it that was killed a moment ago."""
    now = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime())
    spec = {
        "holderIdentity": "flight-delay-dead-1", "leaseDurationSeconds": 60,
        "acquireTime": now, "renewTime": now,
    }  # fmt: skip
    metadata = {"name": "modelyard-release", "namespace": repo.namespace}
    repo.cluster.apply(
        {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata,
            "spec": spec,
        }
    )


@pytest.mark.xdist_group("ended")
@pytest.mark.long
def test_releases_that_are_ended_from_outside(repo: Repo, users: Traffic) -> None:
    """`argo stop` rolls back; `argo terminate` leaves it, and the next one goes on."""
    release = repo.release(OTHER_GOOD)
    repo.reaches("canary", OTHER_GOOD)
    release.shut_down("Stop")
    assert release.end() == 1, release
    assert repo.weights() == {GOOD: 100} and last(repo)["decision"] == "rolled_back"

    release = repo.release(OTHER_GOOD)
    repo.reaches("canary", OTHER_GOOD)
    release.shut_down("Terminate")
    assert release.end() == 1, release
    assert last(repo).get("decision") is None
    assert repo.submit().end() == 0, repo.status()
    assert repo.weights() == {OTHER_GOOD: 100}


@pytest.mark.xdist_group("approval")
@pytest.mark.long
def test_approval_is_given_refused_or_never_given(
    cluster: Cluster, model_repos: Make, url: str
) -> None:
    repo = model_repos(approval=True)
    first = repo.release(GOOD)
    waits(cluster, first)
    assert repo.weights() == {}, "nobody is served before"
    first.resume()
    assert first.end() == 0 and repo.weights() == {GOOD: 100}, first
    with repo.users(url) as users:
        refused = repo.release(OTHER_GOOD)
        waits(cluster, refused)
        refused.shut_down("Stop")
        assert refused.end() == 1 and repo.weights() == {GOOD: 100}, refused

        given = repo.release(OTHER_GOOD)
        waits(cluster, given)
        assert repo.weights().keys() == {GOOD, OTHER_GOOD}
        given.resume()
        assert given.end() == 0 and repo.weights() == {OTHER_GOOD: 100}, given

        brief = POLICY["canary"] | {"max_duration": "45s"}
        repo.apply(policy=POLICY | {"canary": brief})
        never = repo.release(GOOD)
        waits(cluster, never)
        time.sleep(60)
        assert repo.weights().keys() == {GOOD, OTHER_GOOD}, "what is well waits on"
        never.shut_down("Stop")
        assert never.end() == 1 and repo.weights() == {OTHER_GOOD: 100}, never
        assert users.failed() == [], users


def waits(cluster: Cluster, release: Release) -> None:
    cluster.eventually(lambda: release.nodes().get("approve") == "Running", 240)
