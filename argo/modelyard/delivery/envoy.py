"""Local traffic: a real Envoy, steered by files that are replaced under it.

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

from modelyard.delivery.ports import Arm, Routes
from modelyard.delivery.processes import Server, free_port, port_taken, wait_until, write_atomically
from modelyard.documents import UserError

ARM_HEADER = "x-modelyard-arm"
"""`stable` in it goes to stable whatever the weights are, and is counted apart"""

_LIVE_S = 10.0
_REQUEST_S = 10
_TYPES = "type.googleapis.com/envoy"
# 1 ms to 1 min, each edge a tenth above the last: a quantile is known within 10 %.
_EDGES_MS = [round(1.1**k, 2) for k in range(116)]


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
        if not self.server.alive():
            self._write("clusters", clusters)
            self._write("routes", [table])
            self._start()
        if self._current("clusters") != clusters:
            kept = [c for c in self._current("clusters") if c["name"] not in _names(clusters)]
            self._publish("clusters", clusters + kept)
        if self._current("routes") != [table]:
            self._publish("routes", [table])
        if self._current("clusters") != clusters:
            self._publish("clusters", clusters)

    def idle(self, version: int) -> bool:
        """Whether Envoy waits for no answer of this version."""
        stats = self._get(f"/stats?filter=^cluster.{_name(version)}.upstream_rq_active$")
        return stats.strip().endswith(": 0") or not stats.strip()

    def arms(self) -> dict[int, Arm]:
        """What each version answered since Envoy started.

        Raises:
            ConnectionError: Envoy does not answer, or not with numbers.
        """
        try:
            text = self._get(
                r"/stats/prometheus?usedonly&filter=^cluster\.v\d%2B\.upstream_rq_(\dxx|time)$"
            )
            return read_arms(text)
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
        if not wait_until(self._serves, _LIVE_S) or not self.server.alive():
            tail = self.server.log_tail()
            self.server.stop()
            raise UserError(f"Envoy did not start on port {self.port}:\n{tail}")

    def _serves(self) -> bool:
        if not self.server.alive():
            return True  # no use in waiting; the caller looks again
        try:
            return self._get("/ready").strip() == "LIVE"
        except httpx.HTTPError:
            return False

    def _publish(self, kind: str, resources: list[dict[str, Any]]) -> None:
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

        if not wait_until(live, _LIVE_S, every=0.01):
            raise UserError(
                f"Envoy did not take over {self.folder / kind}.json within {_LIVE_S:g} s:\n"
                f"{self.server.log_tail()}"
            )

    def _current(self, kind: str) -> list[dict[str, Any]]:
        return json.loads((self.folder / f"{kind}.json").read_text())["resources"]

    def _write(self, kind: str, resources: list[dict[str, Any]]) -> str:
        version = f"{time.time_ns()}"
        document = {"version_info": version, "resources": resources}
        write_atomically(self.folder / f"{kind}.json", json.dumps(document, indent=1))
        return version


def read_arms(text: str) -> dict[int, Arm]:
    """Envoy's Prometheus text (`upstream_rq_xx`, `upstream_rq_time`) as totals by version.

    Raises:
        ValueError: a line is not what Envoy writes, or no whole number.
    """
    requests: dict[int, int] = {}
    failures: dict[int, int] = {}
    cumulative: dict[int, list[tuple[float, int]]] = {}
    for line in text.splitlines():
        kind, _, rest = line.removeprefix("envoy_cluster_upstream_rq_").partition("{")
        if line.startswith("#") or kind not in ("xx", "time_bucket"):
            continue
        labels, _, value = rest.rpartition("} ")
        label = dict(pair.split("=", 1) for pair in labels.replace('"', "").split(","))
        version, count = int(label["envoy_cluster_name"].removeprefix("v")), int(value)
        if kind == "time_bucket":
            cumulative.setdefault(version, []).append((float(label["le"]), count))
            continue
        requests[version] = requests.get(version, 0) + count
        if label["envoy_response_code_class"] != "2":
            failures[version] = failures.get(version, 0) + count
    return {
        version: Arm(
            requests=count,
            failures=failures.get(version, 0),
            latency=_differences(cumulative.get(version, [])),
        )
        for version, count in requests.items()
    }


def _differences(cumulative: list[tuple[float, int]]) -> dict[float, int]:
    """Cumulative buckets as counts of each; empty ones between are kept only as lower edges."""
    counts, before = {}, 0
    for edge, total in sorted(cumulative):
        counts[edge] = total - before
        before = total
    edges = sorted(counts)
    # A bucket needs its lower edge, so that one stays although it is empty.
    return {
        edge: counts[edge]
        for position, edge in enumerate(edges)
        if counts[edge] or (position + 1 < len(edges) and counts[edges[position + 1]])
    }


def _name(version: int) -> str:
    return f"v{version}"


def _names(clusters: list[dict[str, Any]]) -> set[str]:
    return {c["name"] for c in clusters}


def _clusters(version: int, port: int) -> list[dict[str, Any]]:
    """One cluster for users and one, counted apart, for requests that name their arm."""
    return [_cluster(name, port) for name in (_name(version), f"direct-{_name(version)}")]


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
                # Shorter than uvicorn's keep-alive of 5 s: a server that closes a
                # connection just as a request comes in would look like a failure.
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
    action: dict[str, Any] = {"timeout": f"{_REQUEST_S}s"}
    if weighted:
        action["weighted_clusters"] = {"clusters": weighted}
    if routes.mirror and routes.candidate is not None:
        action["request_mirror_policies"] = [{"cluster": _name(routes.candidate)}]
    rules = []
    if routes.stable is not None:
        rules.append(
            {
                "match": {
                    "prefix": "/",
                    "headers": [{"name": ARM_HEADER, "string_match": {"exact": "stable"}}],
                },
                "route": {
                    "cluster": f"direct-{_name(routes.stable)}",
                    "timeout": f"{_REQUEST_S}s",
                },
            }
        )
    rest: dict[str, Any] = {"match": {"prefix": "/"}}
    if weighted:
        rest["route"] = action
    else:
        rest["direct_response"] = {"status": 503, "body": {"inline_string": "no version yet\n"}}
    return {
        "@type": f"{_TYPES}.config.route.v3.RouteConfiguration",
        "name": "modelyard",
        "virtual_hosts": [{"name": "users", "domains": ["*"], "routes": [*rules, rest]}],
    }


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
