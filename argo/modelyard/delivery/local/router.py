"""Router on a laptop: the weights of the local Envoy."""

from modelyard.delivery.local.envoy.process import Envoy
from modelyard.delivery.local.servers import BentoServers
from modelyard.delivery.ports import Routes


class EnvoyRouter:
    """Router: the weights of the local Envoy."""

    def __init__(self, envoy: Envoy, servers: BentoServers) -> None:
        self._envoy, self._servers = envoy, servers

    def route(self, routes: Routes) -> None:
        used = [v for v in (routes.stable, routes.candidate) if v is not None]
        self._envoy.apply(routes, {v: self._servers.port(v) for v in used})

    def serving(self) -> dict[int, int]:
        return self._envoy.serving()
