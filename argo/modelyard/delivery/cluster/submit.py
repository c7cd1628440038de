"""Submits the workflow of a release and follows it: by an Argo server, or the cluster's API."""

import os
import time
from collections.abc import Callable
from typing import Protocol

import httpx

from modelyard.delivery.cluster.client import Cluster, api_message
from modelyard.delivery.cluster.workflow import WORKFLOW
from modelyard.delivery.manifests.objects import Manifest
from modelyard.delivery.ports import NoAnswer
from modelyard.delivery.step_interface import EXIT
from modelyard.documents import UserError

EVERY_S = 5.0
_SHOWN = ("Retry", "Pod", "Suspend")
_DECIDED = (str(EXIT["rolled_back"]), str(EXIT["held"]))
_ENDS = ("Succeeded", "Failed", "Error")


class Unreachable(Exception):
    """No answer for now; it decides nothing."""


class Workflows(Protocol):
    """Where workflows run."""

    def create(self, workflow: Manifest) -> str:
        """Submit; the name that it got.

        Raises:
            UserError: it is refused, or nobody answers.
        """
        ...

    def status(self, name: str) -> Manifest:
        """The `status` of a workflow, as the workflow controller writes it.

        Raises:
            UserError: there is none of that name, or it may not be read.
            Unreachable: see there.
        """
        ...


def workflows(namespace: str) -> Workflows:
    """The Argo server of ARGO_SERVER, else the cluster's own API."""
    server = os.environ.get("ARGO_SERVER")
    return ArgoServer(server, namespace) if server else ClusterApi(namespace)


class ArgoServer:
    """By the variables of the `argo` command.

    ARGO_SERVER (a URL or host:port), ARGO_TOKEN, ARGO_SECURE (true unless `false`),
    ARGO_INSECURE_SKIP_VERIFY.
    """

    def __init__(self, server: str, namespace: str) -> None:
        if "://" not in server:
            scheme = "http" if os.environ.get("ARGO_SECURE", "").lower() == "false" else "https"
            server = f"{scheme}://{server}"
        token = os.environ.get("ARGO_TOKEN", "")
        if token and " " not in token:
            token = f"Bearer {token}"
        self._server = server.rstrip("/")
        self._path = f"{self._server}/api/v1/workflows/{namespace}"
        self._client = httpx.Client(
            headers={"authorization": token} if token else {},
            verify=os.environ.get("ARGO_INSECURE_SKIP_VERIFY", "").lower() != "true",
            timeout=30,
        )

    def create(self, workflow: Manifest) -> str:
        try:
            made = self._ask("POST", self._path, {"workflow": workflow})
        except Unreachable as error:
            raise UserError(str(error)) from None
        return made["metadata"]["name"]

    def status(self, name: str) -> Manifest:
        return self._ask("GET", f"{self._path}/{name}").get("status") or {}

    def _ask(self, method: str, path: str, body: Manifest | None = None) -> Manifest:
        try:
            answer = self._client.request(method, path, json=body)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unreachable(f"the Argo server {self._server}: {error}") from None
        told = f"{answer.status_code} {api_message(answer.text) or answer.reason_phrase}"
        if answer.status_code >= 500:
            raise Unreachable(f"the Argo server {self._server}: {told}")
        if not answer.is_success:
            raise UserError(f"the Argo server {self._server} refuses: {told}")
        try:
            found = answer.json()
            found["metadata"]["name"]
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{self._server} does not answer as Argo does") from None
        return found


class ClusterApi:
    """Through the cluster of KUBECONFIG, or the one that the process runs in."""

    def __init__(self, namespace: str) -> None:
        self._cluster = Cluster(namespace, patience=0)  # `follow` asks on by itself

    def create(self, workflow: Manifest) -> str:
        made = self._cluster.create(workflow)
        if made is None:
            raise UserError(f"a workflow {workflow['metadata']['generateName']}… is there already")
        return made["metadata"]["name"]

    def status(self, name: str) -> Manifest:
        try:
            found = self._cluster.get(WORKFLOW, name)
        except NoAnswer as error:
            raise Unreachable(str(error)) from None
        if found is None:
            raise UserError(f"there is no workflow {name} any more")
        return found.get("status") or {}


def follow(
    where: Workflows,
    name: str,
    show: Callable[[str], None],
    every: float = EVERY_S,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Show a workflow's nodes as they change, until it ends; the release's exit code.

    0 promoted, 2 rolled back, 3 held, 1 anything else.
    """
    seen: dict[str, str] = {}
    problem = ""
    while True:
        try:
            status, problem = where.status(name), ""
        except Unreachable as error:
            if str(error) != problem:
                show(f"no answer, asking on: {error}")
            status, problem = {}, str(error)
        for line in changes(status, seen, name):
            show(line)
        if status.get("phase") in _ENDS:
            return exit_code(status)
        sleep(every)


def changes(status: Manifest, seen: dict[str, str], workflow: str) -> list[str]:
    """A line for each node that is in another phase than was seen; `seen` is brought up to date."""
    nodes = (status.get("nodes") or {}).values()
    lines = []
    for node in sorted(nodes, key=lambda each: (each.get("startedAt") or "", each["id"])):
        name, phase = node.get("displayName") or node["name"], node.get("phase") or "Pending"
        if node.get("type") not in _SHOWN or seen.get(node["id"]) == phase:
            continue
        seen[node["id"]] = phase
        line = f"{name}: {phase}"
        if node.get("message"):
            line += f" ({node['message']})"
        if node["type"] == "Suspend" and phase == "Running":
            resume = f"argo resume {workflow} --node-field-selector displayName={name}"
            line += f": waits for you, `{resume}`"
        lines.append(line)
    return lines


def exit_code(status: Manifest) -> int:
    """What a release's workflow that has ended comes to, by the exit codes of its nodes."""
    if status.get("phase") == "Succeeded":
        return 0
    nodes = (status.get("nodes") or {}).values()
    codes = [str((node.get("outputs") or {}).get("exitCode")) for node in nodes]
    return next((int(code) for code in codes if code in _DECIDED), 1)
