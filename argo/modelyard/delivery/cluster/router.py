"""Router on Kubernetes: the weights of one HTTPRoute of the Gateway API."""

import time

from modelyard.delivery.cluster.client import Cluster, Conflict, say
from modelyard.delivery.manifests import objects
from modelyard.delivery.manifests.objects import Manifest, Target
from modelyard.delivery.ports import Routes
from modelyard.documents import UserError

_ROUTE = ("gateway.networking.k8s.io/v1", "HTTPRoute")
_LIVE_S = 60  # within which a Gateway takes a route over


class GatewayRouter:
    """Router: the weights of one HTTPRoute, and a mirror filter in shadow."""

    def __init__(self, cluster: Cluster, target: Target) -> None:
        self._cluster, self._target = cluster, target

    def route(self, routes: Routes) -> None:
        route = route_of(self._target, routes)
        if route is None:
            self._cluster.delete(objects.http_route(self._target, stable=0))
            return
        self._apply(route, routes)
        end = time.monotonic() + _LIVE_S
        while problem := route_problem(self._cluster.get(_ROUTE, self._target.model)):
            if time.monotonic() > end:
                raise UserError(
                    f"HTTPRoute {self._target.model} is not live after {_LIVE_S} s: {problem}; "
                    f"look at Gateway {self._target.gateway}"
                )
            time.sleep(1)

    def serving(self) -> dict[int, int]:
        return serving_of(self._target, self._cluster.get(_ROUTE, self._target.model))

    def _apply(self, route: Manifest, routes: Routes) -> None:
        """Only the way back to stable takes fields over from whoever else has written them."""
        try:
            self._cluster.apply(route)
        except Conflict as conflict:
            if routes.weight or routes.mirror:
                raise UserError(
                    f"{conflict}; only the release should write it: see who does by "
                    f"`kubectl get httproute {self._target.model} --show-managed-fields -o yaml`"
                ) from None
            say(f"{conflict}; all traffic goes to stable all the same")
            self._cluster.apply(route, force=True)


def route_of(target: Target, routes: Routes) -> Manifest | None:
    """The HTTPRoute that makes `routes` live; None where there is nobody to route to."""
    if routes.stable is not None:
        return objects.http_route(
            target,
            stable=routes.stable,
            # Without traffic it is on its way out; a backend that is gone would break the route.
            candidate=routes.candidate if routes.weight or routes.mirror else None,
            weight=routes.weight,
            mirror=routes.mirror,
        )
    if routes.candidate is not None and routes.weight:
        return objects.http_route(target, stable=routes.candidate)
    return None


def serving_of(target: Target, route: Manifest | None) -> dict[int, int]:
    """Version → weight, above 0, by the backends of an HTTPRoute."""
    found: dict[int, int] = {}
    for rule in ((route or {}).get("spec") or {}).get("rules") or []:
        for backend in rule.get("backendRefs") or []:
            prefix, _, version = backend["name"].rpartition("-v")
            weight = backend.get("weight", 1)
            if prefix == target.model and version.isdigit() and weight > 0:
                found[int(version)] = found.get(int(version), 0) + weight
    return found


def route_problem(route: Manifest | None) -> str:
    """Why the Gateway does not route by this yet; empty if it does."""
    parents = ((route or {}).get("status") or {}).get("parents") or []
    if route is None or not parents:
        return "no Gateway has taken it"
    for parent in parents:
        conditions = {each["type"]: each for each in parent.get("conditions") or []}
        for kind in ("Accepted", "ResolvedRefs"):
            condition = conditions.get(kind)
            if condition is None:
                return f"{kind} is not known"
            if condition.get("observedGeneration", 0) < route["metadata"]["generation"]:
                return "the Gateway has not seen it"
            if condition["status"] != "True":
                return f"not {kind}: {condition.get('reason')}: {condition.get('message')}"
    return ""
