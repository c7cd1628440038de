"""A running Envoy, steered by files that are replaced under it.

Routes (RDS) and clusters (CDS) are read from `routes.json` and `clusters.json`; Envoy
sees their rename within milliseconds. A cluster comes before the route that uses it
and goes after it.
"""

import json
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from modelyard.delivery.evidence.counts import Arm
from modelyard.delivery.evidence.looks import Health
from modelyard.delivery.local.envoy.stats import COUNTS, read_arms
from modelyard.delivery.local.envoy.xds import bootstrap_of, clusters_of, names, route_table
from modelyard.delivery.local.process_supervisor import (
    Server,
    free_port,
    port_taken,
    wait_until,
    write_atomically,
)
from modelyard.delivery.ports import NoAnswer, Routes
from modelyard.documents import UserError

_LIVE_S = 10.0
_PORT_S = 5.0
_GONE_S = 2.0


class Envoy:
    """The Envoy of one environment, its files in `folder`, users at 127.0.0.1:`port`."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder.absolute()
        self.port = port
        self.server = Server(self.folder)
        self.admin = httpx.Client(timeout=5.0)

    def check(self) -> None:
        """See that this Envoy has the port, or could have it.

        Raises:
            UserError: another program listens there.
        """
        if not self.server.alive() and port_taken(self.port):
            raise UserError(
                f"port {self.port} is in use by another program; end it, or change "
                "environments.local.port in argo/release.yaml"
            )

    @property
    def epoch(self) -> str:
        """Another one after each start: Envoy counts from 0 again."""
        return str((self.server.facts or {}).get("token"))

    def apply(self, routes: Routes, ports: Mapping[int, int]) -> None:
        """Make `routes` live; `ports` are those of the versions' servers on 127.0.0.1.

        Raises:
            UserError: Envoy does not start, or does not take them.
        """
        used = [v for v in (routes.stable, routes.candidate) if v is not None]
        clusters = [c for v in used for c in clusters_of(v, ports[v])]
        table = route_table(routes)
        if self.server.alive() and self._take_over(clusters, table):
            return
        # There is none, or it died over it: the next one begins with them.
        self._write("clusters", clusters)
        self._write("routes", [table])
        self._start()

    def serving(self) -> dict[int, int]:
        """Version → weight, above 0, by the routes that are live; empty without an Envoy."""
        if not self.server.alive():
            return {}
        try:
            dump = json.loads(self._get("/config_dump?resource=dynamic_route_configs"))
            tables = [each["route_config"] for each in dump.get("configs", [])]
        except (httpx.HTTPError, ValueError, KeyError) as error:
            # The shell of an Envoy that has just died is gone in a moment, too.
            if wait_until(lambda: not self.server.alive(), _GONE_S):
                return {}
            raise NoAnswer(f"Envoy does not tell its routes: {error!r}") from None
        rules = [r for t in tables for host in t["virtual_hosts"] for r in host["routes"]]
        users = [r for r in rules if "headers" not in r["match"]]
        found = [r.get("route", {}).get("weighted_clusters", {}).get("clusters", []) for r in users]
        return {int(c["name"].removeprefix("v")): c["weight"] for each in found for c in each}

    def health(self) -> Health:
        """Whether users are let in. It does not take a controller to find out."""
        if self.server.facts is None:
            return Health(status="absent", detail="Envoy is not running")
        if not self.server.alive():
            tail = self.server.log_tail()
            return Health(status="failed", detail=f"Envoy ended; the end of its log:\n{tail}")
        try:
            state = self._get("/ready").strip()
        except httpx.HTTPError as error:
            return Health(status="starting", detail=f"Envoy does not answer: {error}")
        if state != "LIVE":
            return Health(status="starting", detail=f"Envoy is {state}")
        return Health(status="ready")

    def idle(self, clusters: str) -> bool:
        """Whether Envoy waits for no answer of these (a regular expression of names)."""
        try:
            stats = self._get(f"/stats?filter=^cluster.({clusters}).upstream_rq_active$")
        except httpx.HTTPError:
            return True  # nothing waits in an Envoy that is gone
        return all(line.endswith(": 0") for line in stats.splitlines())

    def arms(self) -> dict[str, Arm]:
        """What each version answered since Envoy started: users and mirrored requests under
        `v{version}`, the shadow's own requests under `replay-v{version}`.

        Raises:
            ConnectionError: Envoy does not answer, or not with numbers.
        """
        try:
            return read_arms(self._get(COUNTS))
        except (httpx.HTTPError, ValueError) as error:
            raise ConnectionError(f"Envoy's statistics: {error}") from error

    def stop(self) -> None:
        self.server.stop()

    def _get(self, path: str) -> str:
        facts = self.server.facts
        if facts is None:
            raise httpx.ConnectError("Envoy was not started")
        reply = self.admin.get(f"http://127.0.0.1:{facts['admin']}{path}")
        return reply.raise_for_status().text

    def _start(self) -> None:
        if self.server.facts:
            # The shell of an Envoy that died may be gone before the kernel has its port back.
            wait_until(lambda: not port_taken(self.port), _PORT_S)
        self.check()
        program = shutil.which("envoy", path=str(Path(sys.executable).parent)) or "envoy"
        admin = free_port()
        bootstrap = self.folder / "envoy.json"
        write_atomically(
            bootstrap, json.dumps(bootstrap_of(self.folder, self.port, admin), indent=1)
        )
        self.server.start(
            # Envoy asks the kernel for a SIGTERM when its parent dies (PR_SET_PDEATHSIG).
            # A shell that waits for it is the parent that outlives this command.
            ["/bin/sh", "-c", '"$@"; exit $?', "envoy", program, "-c", str(bootstrap),
             "--concurrency", "1", "--use-dynamic-base-id", "--log-level", "warning"],
            {},
            admin=admin,
        )  # fmt: skip
        if not wait_until(self._started, _LIVE_S) or not self.server.alive():
            tail = self.server.log_tail()
            self.server.stop()
            raise UserError(f"Envoy did not start on port {self.port}:\n{tail}")

    def _started(self) -> bool:
        return self.health().status != "starting"

    def _take_over(self, clusters: list[dict[str, Any]], table: dict[str, Any]) -> bool:
        """Make a running Envoy do it; False if it ended before it did."""
        kept = [c for c in self._current("clusters") if c["name"] not in names(clusters)]
        steps = (("clusters", clusters + kept), ("routes", [table]), ("clusters", clusters))
        return all(self._current(kind) == wanted or self._publish(kind, wanted)
                   for kind, wanted in steps)  # fmt: skip

    def _publish(self, kind: str, resources: list[dict[str, Any]]) -> bool:
        version = self._write(kind, resources)
        stat = {
            "clusters": "cluster_manager.cds.version_text",
            "routes": "http.users.rds.modelyard.version_text",
        }[kind]

        def live() -> bool:
            try:
                return f'"{version}"' in self._get(f"/stats?type=TextReadouts&filter=^{stat}$")
            except httpx.HTTPError:
                return False

        # What it said once holds: asked again, an Envoy that died meanwhile would seem deaf.
        if not wait_until(lambda: live() or not self.server.alive(), _LIVE_S, every=0.01):
            raise UserError(
                f"Envoy did not take over {self.folder / kind}.json within {_LIVE_S:g} s:\n"
                f"{self.server.log_tail()}"
            )
        return self.server.alive()

    def _current(self, kind: str) -> list[dict[str, Any]]:
        return json.loads((self.folder / f"{kind}.json").read_text())["resources"]

    def _write(self, kind: str, resources: list[dict[str, Any]]) -> str:
        version = f"{time.time_ns()}"
        document = {"version_info": version, "resources": resources}
        write_atomically(self.folder / f"{kind}.json", json.dumps(document, indent=1))
        return version
