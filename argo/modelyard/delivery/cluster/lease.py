"""The lock of an environment on Kubernetes: a Lease, renewed while it is held."""

import math
import os
import socket
import threading
import time
import uuid
from contextlib import suppress
from datetime import UTC, datetime

from modelyard.delivery.cluster.client import AGAIN_S, Cluster, say
from modelyard.delivery.manifests.objects import Manifest
from modelyard.delivery.ports import LockLost
from modelyard.documents import UserError

_LEASE = ("coordination.k8s.io/v1", "Lease")
_LEASE_S = 60


class Lease:
    """The lock of an environment, renewed in the background while it is held."""

    def __init__(self, cluster: Cluster, metadata: Manifest) -> None:
        self._cluster, self._metadata, self._name = cluster, metadata, metadata["name"]
        self.holder = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._deadline = 0.0
        """of time.monotonic(): nobody else takes it before"""
        self._done = threading.Event()
        self._renewal = threading.Thread(target=self._keep)

    def __enter__(self) -> "Lease":
        """Raises: UserError: another controller holds the lease."""
        try:
            self._take()
            self._renewal.start()
        except (KeyboardInterrupt, SystemExit):  # ended, maybe after the lease was given
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        if self._renewal.ident is not None:
            self._renewal.join()
        with suppress(UserError):  # it ends by itself
            present = self._cluster.get(_LEASE, self._name)
            if present and present["spec"].get("holderIdentity") == self.holder:
                self._cluster.replace(present | {"spec": {"holderIdentity": ""}})

    def check(self) -> None:
        """Raises: LockLost: it was taken, or could not be renewed in time."""
        if time.monotonic() > self._deadline:
            raise LockLost(
                f"the lease {self._name} in namespace {self._cluster.namespace} was lost to "
                "another controller, or could not be renewed; run the same again to go on"
            )

    def renew(self) -> None:
        """Raises: UserError: no answer; it is still held until it ends."""
        deadline = time.monotonic() + _LEASE_S
        present = self._cluster.get(_LEASE, self._name)
        if present is None or (present.get("spec") or {}).get("holderIdentity") != self.holder:
            self._deadline = 0.0
        elif self._cluster.replace(present | {"spec": _lease_spec(self.holder)}):
            self._deadline = deadline

    def _take(self) -> None:
        """A holder is waited for until it is seen to renew the lease, or to let it run out.

        By this process's clock alone: those of two machines may differ.
        """
        lease = {"apiVersion": _LEASE[0], "kind": _LEASE[1], "metadata": self._metadata}
        seen, ends = "", math.inf
        while True:
            deadline = time.monotonic() + _LEASE_S
            mine = {"spec": _lease_spec(self.holder)}
            if self._cluster.create(lease | mine):
                break
            present = self._cluster.get(_LEASE, self._name)
            if present is None:
                continue
            holder, version = lease_holder(present), present["metadata"]["resourceVersion"]
            if holder == self.holder:
                break  # the answer was lost
            if holder and seen not in ("", version):
                where = f"in namespace {self._cluster.namespace}"
                raise UserError(f"{holder} is releasing {where}; wait for it to end")
            expired = not holder or time.monotonic() > ends
            if expired and self._cluster.replace(present | mine):
                break
            if holder and not seen:
                seen, ends = version, time.monotonic() + _LEASE_S
                say(f"{holder} has the lease {self._name}: waiting for up to {_LEASE_S} s to see "
                     "whether it is still at work")  # fmt: skip
            time.sleep(AGAIN_S)
        self._deadline = deadline

    def _keep(self) -> None:
        while not self._done.wait(_LEASE_S / 3):
            with suppress(UserError):  # the next renewal comes before the lease ends
                self.renew()


def _lease_spec(holder: str) -> Manifest:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {"holderIdentity": holder, "leaseDurationSeconds": _LEASE_S, "renewTime": now}


def lease_holder(lease: Manifest) -> str:
    """Who holds a lease, dead or alive; empty if nobody does."""
    return (lease.get("spec") or {}).get("holderIdentity") or ""
