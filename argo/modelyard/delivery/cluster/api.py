"""The cluster's API as plain HTTP: the six verbs that a release needs.

The package `kubernetes` knows all of the API. With its bytecode that is 90 MB, and two seconds of
CPU time to import it, in each step of a release (docs/decisions/0053). It is asked where a
kubeconfig is to be read, which no pod does.
"""

import os
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from modelyard.documents import UserError

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""where Kubernetes shows a pod who it is"""
_TIMEOUT = httpx.Timeout(10, connect=3)

Kind = tuple[str, str]
"""`apiVersion` and `kind` of an object"""


class Refusal(Exception):
    """What the API server answers where it does not do what it was asked to."""

    def __init__(self, answer: httpx.Response) -> None:
        super().__init__(f"{answer.status_code} {answer.reason_phrase}")
        self.status, self.reason, self.body = answer.status_code, answer.reason_phrase, answer.text


class NoSuchKind(Exception):
    """The API server knows no objects of a kind."""


class Api:
    """Raises httpx.HTTPError where the API server does not answer. Threads may share one.

    Args:
        authorization: the header's value for the next request; empty for none.
        name: that the server's certificate has, where it is not the host's.
    """

    def __init__(
        self,
        host: str,
        tls: ssl.SSLContext,
        authorization: Callable[[], str],
        name: str | None = None,
    ) -> None:
        def authorize(request: httpx.Request) -> httpx.Request:
            if value := authorization():
                request.headers["authorization"] = value
            return request

        self._client = httpx.Client(base_url=host, verify=tls, auth=authorize, timeout=_TIMEOUT)
        self._extensions = {"sni_hostname": name} if name else {}

    def reach(self) -> None:
        """See that somebody answers there at all."""
        self._client.get("/version", extensions=self._extensions)

    def send(
        self,
        method: str,
        kind: Kind,
        namespace: str,
        name: str = "",
        body: dict[str, Any] | None = None,
        **query: str | bool,
    ) -> dict[str, Any]:
        """The object, list or status that the API server answers with.

        Args:
            method: PATCH is a server-side apply.

        Raises:
            Refusal, NoSuchKind: see there.
        """
        content = "application/apply-patch+yaml" if method == "PATCH" else "application/json"
        answer = self._client.request(
            method,
            path(kind, namespace, name),
            params=query,
            json=body,
            headers={"content-type": content},
            extensions=self._extensions,
        )
        if answer.status_code == 404 and not _names_an_object(answer):
            raise NoSuchKind(f"{kind[1]} in {kind[0]}")
        if not answer.is_success:
            raise Refusal(answer)
        return answer.json()


def path(kind: Kind, namespace: str, name: str = "") -> str:
    """Of an object, or of all of a kind. No kind that a release handles has an irregular plural."""
    group = f"/apis/{kind[0]}" if "/" in kind[0] else f"/api/{kind[0]}"
    of_kind = f"{group}/namespaces/{namespace}/{kind[1].lower()}s"
    return f"{of_kind}/{name}" if name else of_kind


def _names_an_object(answer: httpx.Response) -> bool:
    """Whether it is an object that was not found; a 404 says so of a kind, too."""
    try:
        return bool(answer.json()["details"]["name"])
    except (ValueError, KeyError, TypeError):
        return False


def connect() -> Api:
    """The API of the cluster that this process runs in, else of the current context.

    Raises:
        UserError: there is none.
    """
    try:
        return _of_pod() if "KUBERNETES_SERVICE_HOST" in os.environ else _of_kubeconfig()
    except OSError as error:
        raise UserError(f"no cluster: {error}") from None


def _of_pod() -> Api:
    host, port = (os.environ[f"KUBERNETES_SERVICE_{each}"] for each in ("HOST", "PORT"))
    token = SERVICE_ACCOUNT / "token"
    return Api(
        f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
        ssl.create_default_context(cafile=SERVICE_ACCOUNT / "ca.crt"),
        lambda: f"Bearer {token.read_text().strip()}",  # the kubelet renews it
    )


def _of_kubeconfig() -> Api:
    from kubernetes import client, config

    found = client.Configuration()
    try:
        config.load_kube_config(client_configuration=found)
    except config.ConfigException as error:
        raise UserError(f"no cluster: {error}; set KUBECONFIG") from None
    tls = ssl.create_default_context(cafile=found.ssl_ca_cert)
    if not found.verify_ssl:
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    if found.cert_file:
        tls.load_cert_chain(found.cert_file, found.key_file)

    def authorization() -> str:  # renews a token that has run out
        return found.get_api_key_with_prefix("BearerToken", "authorization") or ""

    return Api(found.host, tls, authorization, found.tls_server_name)
