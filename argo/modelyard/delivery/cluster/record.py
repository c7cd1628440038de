"""Record on Kubernetes: a key an event, in ConfigMaps."""

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from modelyard.delivery.cluster.client import Cluster, anybody_may
from modelyard.delivery.cluster.lease import Lease
from modelyard.delivery.manifests import objects
from modelyard.delivery.manifests.objects import Manifest, Target
from modelyard.delivery.ports import LockLost
from modelyard.documents import ReleaseEvent, UserError
from modelyard.documents.record import APPEND_ONLY, Changed

_CONFIG_MAP = ("v1", "ConfigMap")
_FULL = 256 * 1024  # bytes of events after which the next event begins a new ConfigMap
_LARGEST = 512 * 1024  # bytes of one event; a ConfigMap may have 1 MiB
_ASIDE = "release-record-set-aside"


class ConfigMapRecord:
    """Record: a key an event, in ConfigMaps of some hundred KiB; a Lease is the lock."""

    def __init__(self, cluster: Cluster, target: Target) -> None:
        self._cluster, self._target = cluster, target
        self._lease: Lease | None = None
        self._labels = objects.labels(target) | {"app.kubernetes.io/component": "release-record"}
        self._last = ("", 0)
        """a release, and the number of its newest ConfigMap"""

    @contextmanager
    def _held(self) -> Iterator[None]:
        metadata = objects.metadata(self._target, objects.RELEASE)
        try:
            with Lease(self._cluster, metadata) as self._lease:
                # Whatever rides out an outage must not write once the lease has run out.
                self._cluster.may_write = self._lease.check
                yield
        finally:
            self._cluster.may_write = anybody_may

    def lock(self) -> AbstractContextManager[None]:
        return self._held()

    def check(self) -> None:
        if self._lease is not None:
            self._lease.check()

    def releases(self) -> list[list[ReleaseEvent]]:
        return releases_of(self._cluster.list(_CONFIG_MAP, self._labels))

    def append(self, event: ReleaseEvent) -> None:
        key, text = f"{event.sequence:06d}", event.model_dump_json()
        if (size := len(text.encode())) > _LARGEST:
            raise UserError(
                f"event {event.sequence} of release {event.release} has {size} bytes; "
                f"a ConfigMap takes {_LARGEST}: have fewer slices"
            )
        number, new = self._newest(event.release), event.sequence == 0
        while True:
            name = record_name(self._target.model, event.release, number)
            present = self._cluster.get(_CONFIG_MAP, name)
            if present is None and not new:
                raise UserError(f"ConfigMap {name} of the record is gone: who has deleted it?")
            written = (present or {}).get("data") or {}
            if written.get(key) == text:
                break  # by a controller that died then
            if key in written:
                raise LockLost(f"ConfigMap {name}: {key} was written by another controller")
            if is_full(written):
                number, new = number + 1, True
                continue
            # Refused if the map was made or changed since it was looked for.
            grown = (present or self._map(name)) | {"data": {**written, key: text}}
            if not (self._cluster.replace(grown) if present else self._cluster.create(grown)):
                self._see(name, key, text)
            break
        self._last = (event.release, number)

    def _see(self, name: str, key: str, text: str) -> None:
        """Raises: LockLost: what was refused is not there, as it is where the answer was lost."""
        present = self._cluster.get(_CONFIG_MAP, name) or {}
        if (present.get("data") or {}).get(key) != text:
            raise LockLost(f"ConfigMap {name}: {key} was written by another controller")

    def set_aside(self, sound: Callable[[list[ReleaseEvent]], bool]) -> list[str]:
        """By a label, which `releases` does not look for."""
        kept, aside = sorted_out(self._cluster.list(_CONFIG_MAP, self._labels), sound)
        label = {"app.kubernetes.io/component": _ASIDE}
        for each in aside:
            metadata = each["metadata"]
            moved = metadata | {"labels": metadata["labels"] | label}
            whole = {"apiVersion": "v1", "kind": "ConfigMap"} | each
            if not self._cluster.replace(whole | {"metadata": moved}):
                raise UserError(f"ConfigMap {metadata['name']} was changed just now: try again")
        return [f"ConfigMap {each['metadata']['name']}" for each in aside]

    def _newest(self, release: str) -> int:
        """Of a release's ConfigMaps, so that an append asks for no other."""
        if self._last[0] == release:
            return self._last[1]
        prefix = record_name(self._target.model, release, 0)[:-1]
        names = [each["metadata"]["name"] for each in self._cluster.list(_CONFIG_MAP, self._labels)]
        return max((int(n[len(prefix) :]) for n in names if n.startswith(prefix)), default=0)

    def _map(self, name: str) -> Manifest:
        metadata = objects.metadata(self._target, name) | {"labels": self._labels}
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}


def record_name(model: str, release: str, number: int) -> str:
    """Of the ConfigMap that holds a part of a release's events."""
    short = re.sub(r"[^a-z0-9]+", "-", release.lower()).strip("-")
    return f"{model}-release-{short}-{number}"


def is_full(data: dict[str, str]) -> bool:
    """Whether the next event belongs into a new ConfigMap.

    By what is in it alone, so that two writers who see the same map choose the same place.
    """
    return sum(len(key) + len(text.encode()) for key, text in data.items()) >= _FULL


def releases_of(config_maps: list[Manifest]) -> list[list[ReleaseEvent]]:
    """The events of all releases, oldest release first.

    Raises:
        Changed: a record was edited by hand.
    """
    from pydantic import ValidationError

    found: dict[str, list[ReleaseEvent]] = {}
    for each in config_maps:
        for key, text in (each.get("data") or {}).items():
            try:
                event = ReleaseEvent.model_validate_json(text)
            except ValidationError:
                where = f"ConfigMap {each['metadata']['name']}"
                raise Changed(f"{where}: {key} is no release event") from None
            found.setdefault(event.release, []).append(event)
    for release, events in found.items():
        events.sort(key=lambda event: event.sequence)
        if len({event.sequence for event in events}) < len(events):
            raise Changed(f"release {release}: an event is in its ConfigMaps twice; {APPEND_ONLY}")
        missing = set(range(events[-1].sequence)) - {event.sequence for event in events}
        if missing:
            raise Changed(
                f"release {release}: event {min(missing)} is missing from its ConfigMaps; "
                f"{APPEND_ONLY}"
            )
    return sorted(found.values(), key=lambda events: (events[0].time, events[0].release))


def sorted_out(
    config_maps: list[Manifest], sound: Callable[[list[ReleaseEvent]], bool]
) -> tuple[list[Manifest], list[Manifest]]:
    """Those of releases that can be read together and are sound, and the others."""
    parts: dict[str, list[Manifest]] = {}
    for each in sorted(config_maps, key=lambda each: each["metadata"]["name"]):
        parts.setdefault(each["metadata"]["name"].rpartition("-")[0], []).append(each)
    kept: list[Manifest] = []
    aside: list[Manifest] = []
    for part in parts.values():
        try:
            fine = all(map(sound, releases_of([*kept, *part])))
        except UserError:
            fine = False
        (kept if fine else aside).extend(part)
    return kept, aside
