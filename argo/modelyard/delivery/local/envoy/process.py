"""Local traffic: a real Envoy, steered by files that are replaced under it.

Routes (RDS) and clusters (CDS) are read from `routes.json` and `clusters.json`; Envoy
sees their rename within milliseconds. A cluster comes before the route that uses it
and goes after it.
"""

import json
import math
import shutil
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from modelyard.delivery.local.process_supervisor import (
    Server,
    free_port,
    port_taken,
    wait_until,
    write_atomically,
)
from modelyard.delivery.ports import Arm, Health, NoAnswer, Routes
from modelyard.documents import UserError

ARM_HEADER = "x-modelyard-arm"
"""`stable` in it goes to stable whatever the weights are, and is counted apart.
`shadow` goes to stable and, copied, to the candidate, while there is a shadow: never to users'
counts, and to no version at all at other times."""

_LIVE_S = 10.0
_PORT_S = 5.0
_GONE_S = 2.0
_REQUEST_S = 10
_TYPES = "type.googleapis.com/envoy"
_COUNTS = (
    r"/stats?format=json&usedonly&histogram_buckets=detailed"
    r"&filter=^cluster\.(replay-)?v\d%2B\.upstream_rq_(\dxx|time|active)$"
)


def _last_of_bin(ms: float) -> int:
    """The last whole millisecond in the bin (two digits) that Envoy counts `ms` in."""
    width = 10 ** max(0, math.floor(math.log10(ms)) - 1)
    return math.floor(ms / width) * width + width - 1


# For a Prometheus that scrapes this Envoy: 1 ms to 1 min, a twentieth apart where Envoy's own
# bins are as fine, each edge at the end of one, since Envoy never splits a bin.
_EDGES_MS = sorted({_last_of_bin(1.05**k) for k in range(1, 226)})


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
        clusters = [c for v in used for c in _clusters(v, ports[v])]
        table = _route_table(routes)
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
            return read_arms(self._get(_COUNTS))
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
        write_atomically(bootstrap, json.dumps(_bootstrap(self.folder, self.port, admin), indent=1))
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
        kept = [c for c in self._current("clusters") if c["name"] not in _names(clusters)]
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

        wait_until(lambda: live() or not self.server.alive(), _LIVE_S, every=0.01)
        if not self.server.alive():
            return False
        if not live():
            raise UserError(
                f"Envoy did not take over {self.folder / kind}.json within {_LIVE_S:g} s:\n"
                f"{self.server.log_tail()}"
            )
        return True

    def _current(self, kind: str) -> list[dict[str, Any]]:
        return json.loads((self.folder / f"{kind}.json").read_text())["resources"]

    def _write(self, kind: str, resources: list[dict[str, Any]]) -> str:
        version = f"{time.time_ns()}"
        document = {"version_info": version, "resources": resources}
        write_atomically(self.folder / f"{kind}.json", json.dumps(document, indent=1))
        return version


def read_arms(text: str) -> dict[str, Arm]:
    """Envoy's statistics (`upstream_rq_2xx` …, `_active`, `_time`) as totals by cluster.

    Raises:
        ValueError: they are not what Envoy writes, or no whole numbers.
    """
    found: dict[str, Counter[str]] = defaultdict(Counter)
    latency: dict[str, dict[float, int]] = {}
    try:
        for stat in json.loads(text)["stats"]:
            for histogram in stat.get("histograms", {}).get("details", ()):
                latency[histogram["name"].split(".")[1]] = _buckets(histogram["totals"])
            if "name" not in stat:
                continue
            _, cluster, name = stat["name"].split(".")
            value = int(stat["value"])
            if name == "upstream_rq_active":
                found[cluster]["pending"] = value
                continue
            found[cluster]["requests"] += value
            found[cluster]["failures"] += 0 if name == "upstream_rq_2xx" else value
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"not what Envoy writes: {error!r}") from None
    return {
        cluster: Arm.model_validate({**counts, "latency": latency.get(cluster, {})})
        for cluster, counts in found.items()
    }


def _buckets(bins: list[dict[str, float]]) -> dict[float, int]:
    """Envoy's own bins, which hold two digits of whole milliseconds rounded down: 1 ms wide
    below 100 ms, 10 ms below 1 s, 100 ms below 10 s. An empty bucket stands below each gap."""
    counts: dict[float, int] = {}
    for each in bins:
        low, width = round(each["lower_bound"]), max(1, round(each["width"]))
        counts.setdefault(low, 0)
        counts[low + width] = counts.get(low + width, 0) + int(each["count"])
    counts.pop(0, None)
    return counts


def _name(version: int) -> str:
    return f"v{version}"


def _names(clusters: list[dict[str, Any]]) -> set[str]:
    return {c["name"] for c in clusters}


def _clusters(version: int, port: int) -> list[dict[str, Any]]:
    """One cluster for users and, counted apart, those for requests that name their arm."""
    return [_cluster(f"{kind}{_name(version)}", port) for kind in ("", "direct-", "replay-")]


def _cluster(name: str, port: int) -> dict[str, Any]:
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    return {
        "@type": f"{_TYPES}.config.cluster.v3.Cluster",
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{_TYPES}.extensions.upstreams.http.v3.HttpProtocolOptions",
                # Shorter than any server's: one that closes a connection just as a request
                # comes in would look like a failure.
                "common_http_protocol_options": {"idle_timeout": "2s"},
                "explicit_http_config": {"http_protocol_options": {}},
            }
        },
    }


def _route_table(routes: Routes) -> dict[str, Any]:
    """No retries: a retry would hide the candidate's failures."""
    shares = {routes.stable: 100 - routes.weight, routes.candidate: routes.weight}
    weighted = [
        {"name": _name(version), "weight": share}
        for version, share in shares.items()
        if version is not None and share
    ]
    mirror = routes.candidate if routes.mirror else None
    users = {"weighted_clusters": {"clusters": weighted}} if weighted else None
    rules = [_rule(users, "no version yet", mirror=_name(mirror) if mirror else None)]
    if routes.stable is not None:
        shadow = {"cluster": f"replay-{_name(routes.stable)}"} if mirror else None
        copy = f"replay-{_name(mirror)}" if mirror else None
        stable = {"cluster": f"direct-{_name(routes.stable)}"}
        rules = [
            _rule(stable, arm="stable"),
            _rule(shadow, "no shadow now", arm="shadow", mirror=copy),
            *rules,
        ]
    return {
        "@type": f"{_TYPES}.config.route.v3.RouteConfiguration",
        "name": "modelyard",
        "virtual_hosts": [{"name": "users", "domains": ["*"], "routes": rules}],
    }


def _rule(
    to: dict[str, Any] | None,
    otherwise: str = "",
    arm: str | None = None,
    mirror: str | None = None,
) -> dict[str, Any]:
    """One route: `to` these clusters, or a 503 that says why not."""
    match: dict[str, Any] = {"prefix": "/"}
    if arm is not None:
        match["headers"] = [{"name": ARM_HEADER, "string_match": {"exact": arm}}]
    if to is None:
        body = {"inline_string": f"{otherwise}\n"}
        return {"match": match, "direct_response": {"status": 503, "body": body}}
    action = {**to, "timeout": f"{_REQUEST_S}s"}
    if mirror is not None:
        action["request_mirror_policies"] = [{"cluster": mirror}]
    return {"match": match, "route": action}


def _bootstrap(folder: Path, port: int, admin: int) -> dict[str, Any]:
    def address(number: int) -> dict[str, Any]:
        return {"socket_address": {"address": "127.0.0.1", "port_value": number}}

    def watched(name: str) -> dict[str, Any]:
        source = {"path": str(folder / name), "watched_directory": {"path": str(folder)}}
        return {"resource_api_version": "V3", "path_config_source": source}

    http = f"{_TYPES}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
    manager = {
        "@type": http,
        "stat_prefix": "users",
        # A client's own x-request-id is kept, else one is made: shadow and stable write it
        # into their prediction logs, which pairs their answers.
        "generate_request_id": True,
        "preserve_external_request_id": True,
        "always_set_request_id_in_response": True,
        "rds": {"route_config_name": "modelyard", "config_source": watched("routes.json")},
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {
                    "@type": f"{_TYPES}.extensions.filters.http.router.v3.Router",
                },
            }
        ],
    }
    connection_manager = "envoy.filters.network.http_connection_manager"
    filters = [{"name": connection_manager, "typed_config": manager}]
    return {
        "node": {"id": "modelyard", "cluster": "modelyard"},
        "admin": {"address": address(admin)},
        # Histograms are merged when they are asked for, not every 5 s.
        "stats_flush_on_admin": True,
        "stats_config": {
            "histogram_bucket_settings": [
                {"match": {"suffix": "upstream_rq_time"}, "buckets": _EDGES_MS}
            ]
        },
        "dynamic_resources": {"cds_config": watched("clusters.json")},
        "static_resources": {
            "listeners": [
                {
                    "name": "users",
                    "address": address(port),
                    # Two Envoys must not share the port unnoticed.
                    "enable_reuse_port": False,
                    "filter_chains": [{"filters": filters}],
                }
            ]
        },
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {
                        "@type": f"{_TYPES}.extensions.resource_monitors"
                        ".downstream_connections.v3.DownstreamConnectionsConfig",
                        "max_active_downstream_connections": 10_000,
                    },
                }
            ]
        },
    }
