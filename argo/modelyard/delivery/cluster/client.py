"""The objects of one namespace, as dicts; what the API server refuses, as errors for people.

What a release applies is a server-side apply of what `manifests` renders, so a step that is run
again changes nothing.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from modelyard.delivery.cluster.api import Kind, NoSuchKind, Refusal, connect
from modelyard.delivery.manifests.objects import FIELD_MANAGER, Manifest
from modelyard.delivery.ports import NoAnswer
from modelyard.documents import UserError

_TRIES = 5
_PATIENCE_S = 90.0  # for which an API server that does not answer is asked again
AGAIN_S = 1.0


class Cluster:
    """The objects of one namespace, as dicts.

    The cluster is the one that the process runs in, or KUBECONFIG's current context. Each
    method asks again for a while where the API server does not answer, and raises UserError
    where it refuses.
    """

    def __init__(self, namespace: str, patience: float = _PATIENCE_S) -> None:
        """Args: patience: s for which an API server that does not answer is asked again."""
        self.namespace, self._patience = namespace, patience
        self._api = connect()
        self.may_write: Callable[[], None] = anybody_may
        """called before each write; raises LockLost where this process may write no more"""
        if "KUBERNETES_SERVICE_HOST" not in os.environ:
            # From outside, what can't be reached at all is rather another cluster than was meant.
            with _refusals("reach the cluster"):
                self._api.reach()

    def _ask(self, what: str, call: Callable[[], Any], writes: bool = False) -> Any:
        """Raises:
        NoAnswer: the API server gave none for as long as one has patience.
        LockLost: it is not to be written, or to be waited any longer.
        """
        end, told = time.monotonic() + self._patience, False
        while True:
            if writes or told:
                self.may_write()
            try:
                with _refusals(what):
                    return call()
            except NoAnswer as error:
                if time.monotonic() >= end:
                    raise
                if not told:
                    say(f"{error}; asking again for up to {self._patience:g} s")
                told = True
            time.sleep(AGAIN_S)

    def apply(self, manifest: Manifest, *, force: bool = False) -> Manifest:
        """Server-side apply of the fields that the manifest has.

        Args:
            force: take fields over from other writers, instead of refusing.

        Raises:
            Conflict: another writer has a field that this changes, or keeps on writing.
        """
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        return self._ask(f"apply {kind} {name}", lambda: self._apply(manifest, force), writes=True)

    def _apply(self, manifest: Manifest, force: bool) -> Manifest:
        kind, name = (manifest["apiVersion"], manifest["kind"]), manifest["metadata"]["name"]
        message = ""
        for _ in range(_TRIES):
            body = _seen(manifest, self.get(kind, name))
            try:
                return self._api.send(
                    "PATCH", kind, self.namespace, name, body,
                    fieldManager=FIELD_MANAGER, force=force,
                )  # fmt: skip
            except Refusal as refusal:
                if refusal.status != 409:
                    raise
                message = api_message(refusal.body)
                if _managers(refusal.body):
                    raise Conflict(f"can't apply {kind[1]} {name}: {message}") from None
                # Otherwise it was changed since it was read, as by a Gateway's status.
        raise Conflict(
            f"can't apply {kind[1]} {name}: something else changes it all the time: {message}"
        )

    def get(self, kind: Kind, name: str, namespace: str | None = None) -> Manifest | None:
        """Args: namespace: another than the cluster's own."""
        place = namespace or self.namespace
        return self._ask(
            f"get {kind[1]} {name}",
            lambda: _unless(404, lambda: self._api.send("GET", kind, place, name)),
        )

    def list(self, kind: Kind, labels: dict[str, str]) -> list[Manifest]:
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        found = self._ask(
            f"list {kind[1]}",
            lambda: self._api.send("GET", kind, self.namespace, labelSelector=selector),
        )
        return found["items"]

    def create(self, manifest: Manifest) -> Manifest | None:
        """As it was made; None if an object of that name is there already.

        So it may be by this very call, if the answer was lost.
        """
        kind, metadata = (manifest["apiVersion"], manifest["kind"]), manifest["metadata"]
        name = metadata.get("name") or metadata.get("generateName")
        return self._write(f"create {kind[1]} {name}", 409, "POST", kind, "", manifest)

    def replace(self, manifest: Manifest) -> bool:
        """False if the object was changed since it was read (by its resourceVersion).

        So it may be by this very call, if the answer was lost.
        """
        kind, name = (manifest["apiVersion"], manifest["kind"]), manifest["metadata"]["name"]
        done = self._write(f"replace {kind[1]} {name}", 409, "PUT", kind, name, manifest)
        return done is not None

    def delete(self, manifest: Manifest) -> None:
        kind, name = (manifest["apiVersion"], manifest["kind"]), manifest["metadata"]["name"]
        self._write(f"delete {kind[1]} {name}", 404, "DELETE", kind, name)

    def _write(
        self,
        what: str,
        unless: int,
        method: str,
        kind: Kind,
        name: str,
        body: Manifest | None = None,
    ) -> Manifest | None:
        """None where the API server refuses with the status `unless`."""

        def call() -> Manifest:
            return self._api.send(method, kind, self.namespace, name, body)

        return self._ask(what, lambda: _unless(unless, call), writes=True)


def _unless(status: int, call: Callable[[], Manifest]) -> Manifest | None:
    """None where the API server refuses with this status."""
    try:
        return call()
    except Refusal as refusal:
        if refusal.status == status:
            return None
        raise


def say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def anybody_may() -> None:
    """Where there is no lock to lose."""


class Conflict(UserError):
    """Another writer has its hands on an object that only a release should write."""


def _seen(manifest: Manifest, present: Manifest | None) -> Manifest:
    """The manifest, to be refused if the object is another one by now than was looked at."""
    if present is None:
        return manifest
    version = {"resourceVersion": present["metadata"]["resourceVersion"]}
    return manifest | {"metadata": manifest["metadata"] | version}


def _managers(body: str) -> bool:
    """Whether a refusal is about fields that other managers own."""
    try:
        causes = json.loads(body).get("details", {}).get("causes") or []
    except (ValueError, AttributeError):
        return False
    return any(each.get("reason") == "FieldManagerConflict" for each in causes)


@contextmanager
def _refusals(what: str) -> Iterator[None]:
    try:
        yield
    except Refusal as refusal:
        unable = refusal.status >= 500 or refusal.status == 429
        kind = NoAnswer if unable else UserError
        told = api_message(refusal.body) or refusal.reason
        raise kind(f"can't {what}: {told}") from None
    except NoSuchKind as missing:
        raise UserError(f"can't {what}: the cluster has no such kind ({missing})") from None
    except httpx.HTTPError as error:
        raise NoAnswer(f"can't {what}: the API server does not answer ({error})") from None


def api_message(body: str) -> str:
    """What the API server says in the body of a refusal."""
    try:
        return json.loads(body).get("message", "")
    except (ValueError, AttributeError):
        return ""
