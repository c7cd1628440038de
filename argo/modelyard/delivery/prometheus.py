"""Evidence from Prometheus: what the servers of each version counted themselves.

The PodMonitor of a model labels every series with its pod's version. BentoML counts an
answer when it is sent, so a request that dies with its pod is not counted here; such a
pod shows in the version's health.
"""

import math
import time
from typing import Any

from modelyard.delivery.ports import Arm, Counts, Routes

REQUESTS = "bentoml_service_request_total"
DURATION = "bentoml_service_request_duration_seconds_bucket"
VERSION = "app_kubernetes_io_version"

_LONGEST_S = 24 * 3600  # that a window reaches back at most
_MARGIN_S = 30  # a window reaches back a few scrapes before the time that it is to cover


class Prometheus:
    """Source of counts: the HTTP API of a Prometheus server.

    Args:
        url: of the server, without `/api`.
        model, namespace: whose pods count.
        endpoint: path whose requests count.
    """

    def __init__(
        self, url: str, model: str, namespace: str, endpoint: str = "/predict", timeout: float = 10
    ) -> None:
        self._url = url.rstrip("/")
        self._pods = f'namespace="{namespace}",app_kubernetes_io_name="{model}"'
        self._series = f'{self._pods},endpoint="{endpoint}"'
        self._timeout = timeout

    def counts(self, routes: Routes, since: float) -> Counts:
        """Totals of the versions in `routes` over all of their pods that lived after `since`.

        A pod's last totals stay in the sum after it has gone, so scaling down takes nothing
        away. What would (a container that restarts within its pod) is seen as a reset and
        changes the epoch.

        They are as old as the pod that was scraped longest ago, by Prometheus's own clock.

        Raises:
            ConnectionError: no answer, none that can be read, or pods that are not scraped.
        """
        now = time.time()
        window = f"{math.ceil(min(now - since, _LONGEST_S)) + _MARGIN_S}s"
        scraped = self._by_version(f"sum by ({VERSION}) (up{{{self._pods}}})")
        ages = self._by_version(f"max by ({VERSION}) (time() - timestamp(up{{{self._pods}}}))")
        resets = self._query(f"sum(resets({REQUESTS}{{{self._series}}}[{window}]))")
        codes = self._query(self._totals(REQUESTS, "http_response_code", window))
        buckets = self._query(self._totals(DURATION, "le", window))
        epoch = f"{since:.3f}/{sum(number(each) for each in resets):.0f}"

        def arm(version: int | None) -> Arm | None:
            if version is None:
                return None
            if not scraped.get(str(version)) or str(version) not in ages:
                raise ConnectionError(
                    f"Prometheus at {self._url} scrapes no pod of version {version}"
                )
            return to_arm(version, codes, buckets)

        stable, candidate = arm(routes.stable), arm(routes.candidate)
        routed = [v for v in (routes.stable, routes.candidate) if v is not None]
        age = max((ages[str(version)] for version in routed), default=0.0)
        return Counts(time=now - age, epoch=epoch, stable=stable, candidate=candidate)

    def _totals(self, metric: str, label: str, window: str) -> str:
        latest = f"last_over_time({metric}{{{self._series}}}[{window}])"
        return f"sum by ({VERSION}, {label}) ({latest})"

    def _by_version(self, query: str) -> dict[str, float]:
        return {each["metric"].get(VERSION, ""): number(each) for each in self._query(query)}

    def _query(self, query: str) -> list[dict[str, Any]]:
        """Run an instant query; its vector.

        Raises:
            ConnectionError: see `counts`.
        """
        import httpx

        try:
            answer = httpx.post(
                f"{self._url}/api/v1/query", data={"query": query}, timeout=self._timeout
            )
            content = answer.json()
            if answer.status_code != 200:
                raise ConnectionError(
                    f"Prometheus at {self._url} refuses {query!r}: {content.get('error')}"
                )
            return content["data"]["result"]
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ConnectionError(f"Prometheus at {self._url} does not answer: {error}") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ConnectionError(f"{self._url} does not answer as Prometheus does") from None


def number(sample: dict[str, Any]) -> float:
    """The value of one element of a vector.

    Raises:
        ConnectionError: it is not a number, which must not pass for none counted.
    """
    value = float(sample["value"][1])
    if not math.isfinite(value):
        raise ConnectionError(f"Prometheus gives {value} for {sample['metric']}")
    return value


def to_arm(version: int, codes: list[dict[str, Any]], buckets: list[dict[str, Any]]) -> Arm:
    """One version's totals, of vectors by version and status code, and by version and `le`."""
    own = {VERSION: str(version)}.items()
    by_code = {
        each["metric"]["http_response_code"]: number(each)
        for each in codes
        if own <= each["metric"].items()
    }
    edges = sorted(
        (float(each["metric"]["le"]), number(each))
        for each in buckets
        if own <= each["metric"].items()
    )
    below = [0.0, *(count for _, count in edges)]
    latency = {
        round(edge * 1000, 6): round(count - before)
        for (edge, count), before in zip(edges, below, strict=False)
    }
    failures = sum(count for code, count in by_code.items() if not code.startswith("2"))
    return Arm(requests=round(sum(by_code.values())), failures=round(failures), latency=latency)
