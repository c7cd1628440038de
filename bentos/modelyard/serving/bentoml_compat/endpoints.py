"""BentoML's request metrics, by route.

BentoML labels them with the path, so that whoever asks for paths that are not there grows
the worker's memory and `/metrics` without end.
"""

from collections.abc import Iterable
from typing import Any

from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Match, Mount

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


def bounded(middleware: Middleware) -> Middleware:
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
