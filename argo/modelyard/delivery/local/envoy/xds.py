"""What Envoy is configured by: bootstrap, clusters and routes, as its xDS API has them."""

import math
from pathlib import Path
from typing import Any

from modelyard.delivery.ports import Routes

ARM_HEADER = "x-modelyard-arm"
"""`stable` in it goes to stable whatever the weights are, and is counted apart.
`shadow` goes to stable and, copied, to the candidate, while there is a shadow: never to users'
counts, and to no version at all at other times."""
_REQUEST_S = 10
_TYPES = "type.googleapis.com/envoy"


def _last_of_bin(ms: float) -> int:
    """The last whole millisecond in the bin (two digits) that Envoy counts `ms` in."""
    width = 10 ** max(0, math.floor(math.log10(ms)) - 1)
    return math.floor(ms / width) * width + width - 1


# For a Prometheus that scrapes this Envoy: 1 ms to 1 min, a twentieth apart where Envoy's own
# bins are as fine, each edge at the end of one, since Envoy never splits a bin.
_EDGES_MS = sorted({_last_of_bin(1.05**k) for k in range(1, 226)})


def _name(version: int) -> str:
    return f"v{version}"


def names(clusters: list[dict[str, Any]]) -> set[str]:
    return {c["name"] for c in clusters}


def clusters_of(version: int, port: int) -> list[dict[str, Any]]:
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


def route_table(routes: Routes) -> dict[str, Any]:
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
    clusters: dict[str, Any] | None,
    otherwise: str = "",
    arm: str | None = None,
    mirror: str | None = None,
) -> dict[str, Any]:
    """One route: to these clusters, or a 503 that says why not."""
    match: dict[str, Any] = {"prefix": "/"}
    if arm is not None:
        match["headers"] = [{"name": ARM_HEADER, "string_match": {"exact": arm}}]
    if clusters is None:
        body = {"inline_string": f"{otherwise}\n"}
        return {"match": match, "direct_response": {"status": 503, "body": body}}
    action = {**clusters, "timeout": f"{_REQUEST_S}s"}
    if mirror is not None:
        action["request_mirror_policies"] = [{"cluster": mirror}]
    return {"match": match, "route": action}


def bootstrap_of(folder: Path, port: int, admin: int) -> dict[str, Any]:
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
