"""A namespace of a Kubernetes cluster as a launcher sees it, and what it makes of it."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from modelyard.documents import UserError
from modelyard.pipeline.config.kubernetes import KubernetesSettings
from modelyard.pipeline.launchers.kubernetes.manifests import (
    AGAIN_CODE,
    CONTAINER,
    LABEL,
    MISTAKE_CODE,
    Manifest,
)

LOG_LINES = 2000
ANSWER = 20
"""seconds that the API server has for an answer; reading is tried four times"""
PLAIN = {"_preload_content": False, "_request_timeout": ANSWER}
LEAVING = 60
"""seconds that the belongings of a deleted Job may take to go"""
INDEX = "batch.kubernetes.io/job-completion-index"
HOPELESS = {
    "CreateContainerConfigError",
    "CreateContainerError",
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
}
"""a pod that waits for one of these seldom gets ready by waiting longer"""


class JobClient:
    """What a launcher asks of a namespace, as dicts.

    Every method raises UserError where the API server refuses, and ConnectionError where it
    does not answer.
    """

    def __init__(self, settings: KubernetesSettings) -> None:
        from kubernetes import client, config

        self.namespace = settings.namespace
        try:
            if settings.context or "KUBERNETES_SERVICE_HOST" not in os.environ:
                api = config.new_client_from_config(
                    os.environ.get("KUBECONFIG"), context=settings.context or None
                )
            else:
                given = client.Configuration()
                config.load_incluster_config(client_configuration=given)
                api = client.ApiClient(given)
        except config.ConfigException as error:
            raise UserError(f"kubernetes: no cluster: {error}; set KUBECONFIG") from None
        self._batch, self._core = client.BatchV1Api(api), client.CoreV1Api(api)
        self._network = client.NetworkingV1Api(api)

    def create(self, manifests: list[Manifest]) -> None:
        """The first one, a Job, and the others as its belongings; all of them or none."""
        job, *others = manifests
        with _answers(f"create Job {job['metadata']['name']}"):
            found = self._batch.create_namespaced_job(self.namespace, job, **PLAIN)
        try:
            self.complete(_plain(found), others, new=True)
        except BaseException:
            with suppress(UserError, ConnectionError):
                self.delete(job["metadata"]["name"])
            raise

    def complete(self, job: Manifest, others: list[Manifest], new: bool = False) -> None:
        """Create what a Job lacks of its belongings; one that is `new` lacks all of them.

        Those of an older Job of that name may take a while to go.
        """
        owner = {"apiVersion": "batch/v1", "kind": "Job"} | {
            key: job["metadata"][key] for key in ("name", "uid")
        }
        for other in others:
            owned = other | {"metadata": other["metadata"] | {"ownerReferences": [owner]}}
            deadline = time.monotonic() + LEAVING
            with _answers(f"create {other['kind']} {other['metadata']['name']}"):
                while not self._create(owned) and new:
                    if time.monotonic() > deadline:
                        raise UserError(
                            f"kubernetes: a {other['kind']} {other['metadata']['name']} is there "
                            "already, and of no training; delete it"
                        )
                    time.sleep(1)

    def _create(self, manifest: Manifest) -> bool:
        """False where one of that name is there."""
        from kubernetes.client import ApiException

        create = {
            "Service": self._core.create_namespaced_service,
            "NetworkPolicy": self._network.create_namespaced_network_policy,
        }[manifest["kind"]]
        try:
            create(self.namespace, manifest, **PLAIN)
        except ApiException as error:
            if error.status != 409:
                raise
            return False
        return True

    def job(self, name: str) -> Manifest | None:
        from kubernetes.client import ApiException

        with _answers(f"read Job {name}"):
            try:
                found = self._batch.read_namespaced_job(name, self.namespace, **PLAIN)
            except ApiException as error:
                if error.status == 404:
                    return None
                raise
            return _plain(found)

    def pods(self, name: str) -> list[Manifest]:
        with _answers(f"list the pods of Job {name}"):
            found = self._core.list_namespaced_pod(
                self.namespace, label_selector=f"{LABEL}={name}", **PLAIN
            )
            return _plain(found)["items"]

    def log(self, pod: str) -> str:
        """The end of what a pod printed; empty when it can't be had any more."""
        try:
            with _answers(f"read the log of pod {pod}"):
                found = self._core.read_namespaced_pod_log(
                    pod, self.namespace, container=CONTAINER, tail_lines=LOG_LINES,
                    _request_timeout=ANSWER,
                )  # fmt: skip
                return str(found)
        except (UserError, ConnectionError) as error:
            return f"{error}\n"

    def delete(self, name: str) -> None:
        """The Job with all that belongs to it; it's gone when its pods have ended."""
        from kubernetes.client import ApiException

        with _answers(f"delete Job {name}"):
            try:
                how = {"propagationPolicy": "Foreground"}
                self._batch.delete_namespaced_job(name, self.namespace, body=how, **PLAIN)
            except ApiException as error:
                if error.status != 404:
                    raise


def _plain(response: Any) -> Manifest:
    return json.loads(response.data)


@contextmanager
def _answers(doing: str) -> Iterator[None]:
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except ApiException as error:
        try:
            said = json.loads(error.body or "{}").get("message") or error.reason
        except ValueError:
            said = error.reason
        if (error.status or 0) >= 500 or error.status == 429:
            raise ConnectionError(f"kubernetes: cannot {doing}: {said}") from None
        raise UserError(f"kubernetes: cannot {doing}: {said}") from None
    except HTTPError as error:
        raise ConnectionError(f"kubernetes: cannot {doing}: {error}") from None


def index_of(pod: Manifest) -> str:
    return pod["metadata"].get("annotations", {}).get(INDEX, "?")


def condition(job: Manifest, kind: str) -> Manifest | None:
    conditions = job.get("status", {}).get("conditions") or []
    return next((c for c in conditions if c["type"] == kind and c["status"] == "True"), None)


def waiting(job: Manifest, pods: list[Manifest]) -> str:
    """Why the ranks do not run yet; empty when they do."""
    if job["spec"].get("suspend"):
        return "waiting: the queue has not admitted the Job yet"
    for pod in pods:
        if pod["status"].get("phase") != "Pending":
            continue
        for condition in pod["status"].get("conditions") or []:
            if condition["type"] == "PodScheduled" and condition["status"] == "False":
                return f"waiting: pod {index_of(pod)}: {condition.get('message', 'not scheduled')}"
        return f"waiting: pod {index_of(pod)}: {hopeless(pod) or 'its container starts'}"
    missing = job["spec"]["completions"] - len(pods)
    return f"waiting: {missing} pods not created yet" if missing > 0 else ""


def hopeless(pod: Manifest) -> str:
    """Why a pod's container cannot start, by image or configuration."""
    for status in pod["status"].get("containerStatuses") or []:
        held = (status.get("state") or {}).get("waiting") or {}
        if held.get("reason") in HOPELESS:
            return f"{held['reason']}: {held.get('message', '')}"
    return ""


def _ended(pod: Manifest) -> Manifest:
    """How the pod's container ended; empty while it has not."""
    statuses = pod["status"].get("containerStatuses") or []
    own = next((s for s in statuses if s["name"] == CONTAINER), {})
    return (own.get("state") or {}).get("terminated") or {}


def culprit(pods: list[Manifest]) -> Manifest | None:
    """The first pod that failed by itself: not for the loss of another."""
    failed = [p for p in pods if _ended(p).get("exitCode", 0) not in (0, AGAIN_CODE)]
    mistakes = [p for p in failed if _ended(p)["exitCode"] == MISTAKE_CODE]
    return min(mistakes or failed, key=lambda p: _ended(p).get("finishedAt", ""), default=None)


def last_words(pod: Manifest) -> str:
    ended = _ended(pod)
    said = (ended.get("message") or "").strip()
    if ended.get("reason") == "OOMKilled":
        return "it was out of memory; raise config.yaml: kubernetes.memory"
    last = said.splitlines()[-1] if said else ""
    return last or f"exited with {ended['exitCode']} ({ended.get('reason', 'Error')})"
