"""The model's own routes, in front of BentoML's app.

BentoML's middleware costs several times what a prediction does (docs/decisions/0030), so a
request of `/predict` or `/model` does not pass through it. All else is BentoML's.
"""

from collections.abc import Awaitable, Callable

from modelyard.documents.http import METRICS_ROUTE, MODEL_ROUTE, PREDICT_ROUTE
from modelyard.serving.api.routes import Receive, Scope, Send, worker

App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Dispatch:
    """The model's own routes to `routes`, everything else to BentoML's app."""

    def __init__(self, bento: App, routes: App, prefix: str) -> None:
        self._bento = bento
        self._routes = routes
        self._own = frozenset((prefix + PREDICT_ROUTE, prefix + MODEL_ROUTE))
        self._metrics = prefix + METRICS_ROUTE

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._bento(scope, receive, send)
        elif scope["path"] in self._own:
            await self._routes(scope, receive, send)
        else:
            if scope["path"] == self._metrics:
                worker().flush_metrics()
            await self._bento(scope, receive, send)
