"""The way to the cluster's API: as a pod, by a kubeconfig, and what its answers mean."""

import json
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from argo import pod
from argo.api_server import KINDS, LOCATION, ApiServer, kubeconfig

from modelyard.delivery.cluster import api
from modelyard.delivery.cluster.client import Cluster, NoAnswer
from modelyard.documents import UserError

SERVICE = ("v1", "Service")
MADE = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "flight-delay-v2"}}


@pytest.fixture
def account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "serviceaccount"
    monkeypatch.setattr(api, "SERVICE_ACCOUNT", folder)
    return folder


@pytest.fixture
def server(account: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    with pod.served(account) as (standing_in, variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        yield standing_in


def test_a_pod_knows_its_cluster_by_its_account(server: ApiServer) -> None:
    cluster = Cluster("test")
    assert cluster.get(SERVICE, "flight-delay-v2") is None
    assert cluster.create(MADE)
    assert cluster.get(SERVICE, "flight-delay-v2") is not None


def test_a_token_that_is_renewed_is_read_again(server: ApiServer, account: Path) -> None:
    cluster = Cluster("test")
    server.token = "of-the-next-hour"
    with pytest.raises(UserError, match="can't list Service: Unauthorized"):
        cluster.list(SERVICE, {})
    (account / "token").write_text("of-the-next-hour\n")
    assert cluster.list(SERVICE, {}) == []


def test_another_server_than_the_clusters_is_told_nothing(
    server: ApiServer, account: Path, tmp_path: Path
) -> None:
    pod.certify(account / "ca.crt", tmp_path / "another.key")
    with pytest.raises(NoAnswer, match="can't create Service .*CERTIFICATE_VERIFY_FAILED"):
        Cluster("test", patience=0).create(MADE)
    assert server.objects == {}


def test_a_pod_without_an_account(account: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    with pytest.raises(UserError, match="no cluster: .*No such file"):
        Cluster("test")


@pytest.fixture
def named_server(
    tmp_path: Path, account: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, Any]]:
    """The `cluster` of a kubeconfig for a server that asks for a token."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    file = tmp_path / "kubeconfig"
    monkeypatch.setattr(LOCATION, str(file))
    with pod.served(account) as (server, _):
        yield {
            "server": f"https://127.0.0.1:{server.server_port}",
            "certificate-authority": str(account / "ca.crt"),
        }


def configured(tmp_path: Path, cluster: dict[str, Any], user: dict[str, Any]) -> Cluster:
    document = kubeconfig("") | {"users": [{"name": "test", "user": user}]}
    document["clusters"] = [{"name": "test", "cluster": cluster}]
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(document))
    return Cluster("test")


EXEC = {"apiVersion": "client.authentication.k8s.io/v1", "interactiveMode": "Never"}
CREDENTIAL = {
    "apiVersion": EXEC["apiVersion"],
    "kind": "ExecCredential",
    "status": {"token": pod.TOKEN},
}
USERS: dict[str, dict[str, Any]] = {
    "token": {"token": pod.TOKEN},
    "program": {
        "exec": EXEC | {"command": "printf", "args": ["%s", json.dumps(CREDENTIAL)]},
    },
}


@pytest.mark.parametrize("user", USERS.values(), ids=USERS)
def test_a_kubeconfigs_user(
    user: dict[str, Any], named_server: dict[str, Any], tmp_path: Path
) -> None:
    assert configured(tmp_path, named_server, user).list(SERVICE, {}) == []


def test_a_kubeconfig_with_another_token(named_server: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="can't list Service: Unauthorized"):
        configured(tmp_path, named_server, {"token": "of-nobody"}).list(SERVICE, {})


def test_a_kubeconfigs_authority(named_server: dict[str, Any], tmp_path: Path) -> None:
    unknown = {"server": named_server["server"]}
    with pytest.raises(NoAnswer, match="CERTIFICATE_VERIFY_FAILED"):
        configured(tmp_path, unknown, USERS["token"]).list(SERVICE, {})
    trusting = unknown | {"insecure-skip-tls-verify": True}
    assert configured(tmp_path, trusting, USERS["token"]).list(SERVICE, {}) == []


def test_a_kubeconfigs_name_for_the_server(named_server: dict[str, Any], tmp_path: Path) -> None:
    other = named_server | {"tls-server-name": "cluster.example.com"}
    with pytest.raises(NoAnswer, match="not valid for 'cluster.example.com'"):
        configured(tmp_path, other, USERS["token"]).list(SERVICE, {})


def test_plurals_are_those_of_the_api() -> None:
    for version, kinds in KINDS.items():
        for kind, plural in kinds.items():
            assert api.path((version, kind), "test").rpartition("/")[2] == plural
    route = ("gateway.networking.k8s.io/v1", "HTTPRoute")
    found = api.path(route, "test", "flight-delay")
    assert found == "/apis/gateway.networking.k8s.io/v1/namespaces/test/httproutes/flight-delay"
    assert api.path(SERVICE, "test") == "/api/v1/namespaces/test/services"


STATUS = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404}


@pytest.mark.parametrize(
    ("body", "meant"),
    [
        # As Kubernetes 1.36 answers: no such object; no such kind, in a group that is there; no
        # such group.
        (httpx.Response(404, json=STATUS | {"details": {"name": "a"}}), api.Refusal),
        (httpx.Response(404, json=STATUS | {"details": {}}), api.NoSuchKind),
        (httpx.Response(404, text="404 page not found\n"), api.NoSuchKind),
        (httpx.Response(403, json=STATUS | {"code": 403}), api.Refusal),
        (httpx.Response(503, text="apiserver is shutting down"), api.Refusal),
    ],
)
def test_what_is_not_found(
    body: httpx.Response, meant: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(httpx.Client, "request", lambda *arguments, **options: body)
    cluster = api.Api("http://127.0.0.1", ssl.create_default_context(), str)
    with pytest.raises(meant):
        cluster.send("GET", SERVICE, "test", "a")
