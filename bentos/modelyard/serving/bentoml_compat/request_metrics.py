"""BentoML's request metrics: labelled by route, and of routes that its middleware does not see.

BentoML labels them with the path, so that whoever asks for paths that are not there grows
the worker's memory and `/metrics` without end.

Relies on: the class `RunnerTrafficMetricsMiddleware`, which reads `scope["path"]`; the names and
labels of its metrics, and `server_context`, whose parts these labels are.
Upstream: none known for the label. Since bentoml/BentoML#5186 a service's own routes start at 0,
those in front of it do not.
"""

from collections.abc import Iterable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Match, Mount

from modelyard.documents.metrics import DURATION, ENDPOINT, REQUESTS, STATUS

OTHER = "other"
"""the endpoint of all paths that no route has"""

_SCOPE = "modelyard.scope"


class Endpoints:
    """BentoML's middleware that counts; it is told the route, and the app the path."""

    def __init__(self, app: Any, counting: Any, **settings: Any) -> None:
        """
        Args:
            counting: BentoML's class, and `settings` what it is made with.
        """
        self._app = app
        self._counting = counting(self._answer, **settings)

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        named = {**scope, _SCOPE: scope}
        if "path" in scope:
            named["path"] = endpoint(scope["app"].routes, scope)
        await self._counting(named, receive, send)

    async def _answer(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        await self._app(scope[_SCOPE], receive, send)


def by_route(middleware: Middleware) -> Middleware:
    """The same, by route where it is the one that counts requests."""
    from bentoml._internal.server.http.instruments import RunnerTrafficMetricsMiddleware

    if middleware.cls is not RunnerTrafficMetricsMiddleware:
        return middleware
    return Middleware(Endpoints, counting=middleware.cls, **middleware.kwargs)


def endpoint(routes: Iterable[BaseRoute], scope: dict[str, Any]) -> str:
    """The path of the route that answers, `OTHER` without one.

    A mount whose routes are not known, as that of files, is `<path>/*`.
    """
    for route in routes:
        found, inner = route.matches(scope)
        if found is Match.NONE:
            continue
        path: str = getattr(route, "path", OTHER)
        if not isinstance(route, Mount):
            return path
        below = endpoint(route.routes, {**scope, **inner})
        return f"{path}/*" if below == OTHER else path + below
    return OTHER


def own_labels(endpoint: str) -> dict[str, str]:
    """What BentoML labels a request of this route with, but for the status."""
    from bentoml._internal.context import server_context

    return {
        ENDPOINT: endpoint,
        "service_name": server_context.bento_name or "",
        "service_version": server_context.bento_version or "not available",
        "runner_name": server_context.service_name or "",
    }


def request_families(buckets: list[float]) -> tuple[Counter, Histogram]:
    """Requests and their seconds, in BentoML's families: `own_labels` and `STATUS`.

    In a server they are files that all workers share by name, so that these lines stand
    in BentoML's families; the registry, which has BentoML's own objects of these names, is
    not asked. Without such files (`to_asgi()` in one process) they are not shown.
    """
    labels = [ENDPOINT, "service_name", "service_version", STATUS, "runner_name"]
    return (
        Counter(
            REQUESTS,
            "Total number of runner RPC",
            labels,
            registry=CollectorRegistry(),
        ),
        Histogram(
            DURATION,
            "runner RPC duration in seconds",
            labels,
            buckets=buckets,
            registry=CollectorRegistry(),
        ),
    )
