"""Evidence from Prometheus: PromQL, a preset or the policy's own, asked for one version at a time.

Two presets. `servers`: what BentoML in each pod counted; the PodMonitor labels every series
with its pod's version. An answer is counted when it is sent, so a request that dies before its
pod or with it is not; such a pod shows in the version's health. `envoy-gateway`: requests and
failures as the Gateway's Envoys counted them, which have those, too; latency and scores are the
servers' in both. So requests and latencies need not be equally many.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from string import Template
from typing import Any

from modelyard.delivery.evidence.counts import Arm, Counts
from modelyard.delivery.policy import Metrics
from modelyard.delivery.ports import Routes
from modelyard.documents.http import PREDICT_ROUTE
from modelyard.documents.metrics import DURATION, ENDPOINT, REQUEST_SCORE, REQUESTS, STATUS

_LONGEST_S = 24 * 3600  # that a window reaches back at most
_MARGIN_S = 30  # a window reaches back a few scrapes before the time that it is to cover

_PODS = (
    'namespace="$namespace",app_kubernetes_io_name="$model",app_kubernetes_io_version="$version"'
)
_ASKED = f'{_PODS},{ENDPOINT}="{PREDICT_ROUTE}"'
_ENVOY = 'envoy_cluster_name=~"$clusters"'
BLIND = (
    "the servers count (metrics.source: servers): a request that dies before one, or with it, is "
    "in no count"
)
_TO_SECONDS = {"s": 1.0, "ms": 0.001}


@dataclass(frozen=True, kw_only=True)
class Queries:
    """As `policy.Metrics`, all of them given."""

    requests: str
    latency: str
    latency_unit: str
    scores: str
    resets: str
    age: str


SERVERS = Queries(
    requests=(f"sum by ({STATUS}) (last_over_time({REQUESTS}_total{{{_ASKED}}}[$window]))"),
    latency=(f"sum by (le) (last_over_time({DURATION}_bucket{{{_ASKED}}}[$window]))"),
    latency_unit="s",
    scores=f"sum by (le) (last_over_time({REQUEST_SCORE}_bucket{{{_PODS}}}[$window]))",
    resets=f"sum(resets({REQUESTS}_total{{{_ASKED}}}[$window]))",
    # A pod that does not answer the scrape may be failing its users as well, and counts nothing:
    # the others must not prove the version. Pods that come or go pause the evidence.
    age=f"max(time() - timestamp(up{{{_PODS}}})) and (min(up{{{_PODS}}}) > 0)",
)
_TOTAL = f"envoy_cluster_upstream_rq_total{{{_ENVOY}}}"  # there before the first request
_SCRAPED = f"max(time() - timestamp(up{{{_PODS}}}))"
_ENVOYS_SCRAPED = f"max(time() - timestamp({_TOTAL}))"
ENVOY_GATEWAY = replace(
    SERVERS,
    requests=(
        "sum by (envoy_response_code_class) "
        f"(last_over_time(envoy_cluster_upstream_rq_xx{{{_ENVOY}}}[$window]))"
    ),
    resets=(f"sum(resets({_TOTAL}[$window]) or resets({REQUESTS}_total{{{_ASKED}}}[$window]))"),
    # The older of the two; nothing where either is not scraped. What fails at a pod that does not
    # answer its scrape is counted by the Envoys, so it pauses nothing.
    age=f"({_SCRAPED} >= {_ENVOYS_SCRAPED}) or ({_ENVOYS_SCRAPED} and {_SCRAPED})",
)
PRESETS = {"servers": SERVERS, "envoy-gateway": ENVOY_GATEWAY}


class Prometheus:
    """Source of counts: the HTTP API of a Prometheus server.

    Args:
        url: of the server, without `/api`.
        model, namespace: whose versions count.
        metrics: which queries to ask.
    """

    def __init__(
        self,
        url: str,
        model: str,
        namespace: str,
        metrics: Metrics | None = None,
        timeout: float = 10,
    ) -> None:
        import httpx

        metrics = metrics or Metrics()
        own = metrics.model_dump(exclude={"source"}, exclude_none=True)
        self._queries = replace(PRESETS[metrics.source], **own)
        self._url = url.rstrip("/")
        self._model, self._namespace = model, namespace
        self._client = httpx.Client(timeout=timeout)

    def counts(self, routes: Routes, since: float) -> Counts:
        """Totals of the versions in `routes` over all of their pods that lived after `since`.

        A pod's last totals stay in the sum after it has gone, so scaling down takes nothing
        away. What would (a container that restarts within its pod) is seen as a reset and
        changes the epoch.

        They are as old as the oldest scrape that counts, by Prometheus's own clock.

        Raises:
            ConnectionError: no answer, none that can be read, or a version that should get
                requests and is not scraped.
        """
        now = time.time()
        window = f"{math.ceil(min(now - since, _LONGEST_S)) + _MARGIN_S}s"
        found: dict[int, Arm] = {}
        age, resets = 0.0, 0.0
        for version, served in _served(routes).items():
            given = self._placeholders(version, routes, window)
            found[version] = self._arm(given)
            resets += sum(number(each) for each in self._query(self._queries.resets, given))
            if served:
                age = max(age, self._age(given))
        same_edges(found)
        stable, candidate = (
            None if version is None else found[version]
            for version in (routes.stable, routes.candidate)
        )
        epoch = f"{since:.3f}/{resets:.0f}"
        return Counts(time=now - age, epoch=epoch, stable=stable, candidate=candidate)

    def up(self, version: int) -> list[bool]:
        """Of each pod of a version that Prometheus knows: whether it answered its newest scrape.

        Raises:
            ConnectionError: as of `counts`.
        """
        given = self._placeholders(version, Routes(stable=version), "")
        return [number(each) == 1 for each in self._query(f"up{{{_PODS}}}", given)]

    def knows_routes(self, names: Sequence[str]) -> bool:
        """Whether Envoy Gateway's Envoys have told of any of these HTTPRoutes.

        Raises:
            ConnectionError: as of `counts`.
        """
        rules = f"httproute/{self._namespace}/({'|'.join(names)})/rule/0.*"
        query = f'count(envoy_cluster_upstream_rq_total{{envoy_cluster_name=~"{rules}"}})'
        return bool(self._query(query, {}))

    def _placeholders(self, version: int, routes: Routes, window: str) -> dict[str, str]:
        return {
            "model": self._model,
            "namespace": self._namespace,
            "version": str(version),
            "window": window,
            "clusters": clusters(self._namespace, self._model, version, routes),
        }

    def _arm(self, given: dict[str, str]) -> Arm:
        by_code = _by_label(self._query(self._queries.requests, given))
        failures = sum(count for code, count in by_code.items() if not code.startswith("2"))
        # Milliseconds from here on; le is text, so that PromQL can't do it.
        unit = 1000 * _TO_SECONDS[self._queries.latency_unit]
        latency = _histogram(self._query(self._queries.latency, given))
        return Arm(
            requests=round(sum(by_code.values())),
            failures=round(failures),
            latency={round(edge * unit, 6): count for edge, count in latency.items()},
            scores=_histogram(self._query(self._queries.scores, given)),
        )

    def _age(self, given: dict[str, str]) -> float:
        found = self._query(self._queries.age, given)
        if len(found) != 1:
            raise ConnectionError(
                f"Prometheus at {self._url} does not scrape all that counts version "
                f"{given['version']}: {self._filled(self._queries.age, given)} gives "
                f"{len(found)} elements, not 1"
            )
        return number(found[0])

    @staticmethod
    def _filled(query: str, given: dict[str, str]) -> str:
        return Template(query).substitute(given)

    def _query(self, template: str, given: dict[str, str]) -> list[dict[str, Any]]:
        """Run an instant query; its vector.

        Raises:
            ConnectionError: see `counts`.
        """
        import httpx

        query = self._filled(template, given)
        try:
            answer = self._client.post(f"{self._url}/api/v1/query", data={"query": query})
            content = answer.json()
            if answer.status_code != 200:
                raise ConnectionError(
                    f"Prometheus at {self._url} refuses {query!r}: {content.get('error')}"
                )
            if content["data"]["resultType"] != "vector":
                kind = content["data"]["resultType"]
                raise ConnectionError(f"{query!r} gives a {kind}; a vector is wanted")
            return content["data"]["result"]
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ConnectionError(f"Prometheus at {self._url} does not answer: {error}") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ConnectionError(f"{self._url} does not answer as Prometheus does") from None


def clusters(namespace: str, model: str, version: int, routes: Routes) -> str:
    """The names that Envoy Gateway gives to the clusters of a version, as a regular expression.

    By the place of its backend in the HTTPRoute's one rule, and by the rule's mirror filter.
    """
    rule = f"httproute/{namespace}/{model}/rule/0"
    if version == routes.stable or routes.stable is None:
        return f"{rule}/backend/0"
    return f"{rule}/backend/1|{rule}-mirror-[0-9]+"


def number(sample: dict[str, Any]) -> float:
    """The value of one element of a vector.

    Raises:
        ConnectionError: it is not a number, which must not pass for none counted.
    """
    value = float(sample["value"][1])
    if not math.isfinite(value):
        raise ConnectionError(f"Prometheus gives {value} for {sample['metric']}")
    return value


def same_edges(arms: dict[int, Arm]) -> None:
    """Bring the score histograms to the edges that all of them have.

    The edges of a regression's scores come from the training data, so versions may differ.
    A version that has no histogram yet has counted none.
    """
    known = [set(arm.scores) for arm in arms.values() if arm.scores]
    common = set.intersection(*known) if known else set()
    for version, arm in arms.items():
        scores = dict.fromkeys(sorted(common), 0)
        for edge, count in arm.scores.items():
            if upper := [each for each in scores if each >= edge]:
                scores[upper[0]] += count
        arms[version] = arm.model_copy(update={"scores": scores})


def _served(routes: Routes) -> dict[int, bool]:
    """The versions, and whether each gets requests."""
    shares = {
        routes.stable: routes.weight < 100,
        routes.candidate: routes.weight > 0 or routes.mirror,
    }
    return {version: share for version, share in shares.items() if version is not None}


def _by_label(vector: list[dict[str, Any]]) -> dict[str, float]:
    """Value by the one label of its element.

    Raises:
        ConnectionError: an element has other labels, or is no number.
    """
    found = {}
    for each in vector:
        labels = list(each["metric"].values())
        if len(labels) != 1 or not labels[0]:
            raise ConnectionError(
                "the query for requests must give one label, the status code; "
                f"it gives {each['metric']}"
            )
        found[labels[0]] = number(each)
    return found


def _histogram(vector: list[dict[str, Any]]) -> dict[float, int]:
    """A cumulative histogram as counts by upper edge.

    Raises:
        ConnectionError: it is none.
    """
    try:
        edges = sorted((float(each["metric"]["le"]), number(each)) for each in vector)
    except (KeyError, ValueError):
        raise ConnectionError("a query for a histogram must give `le` and no more") from None
    below = [0.0, *(count for _, count in edges)]
    counts = {
        edge: round(count - before) for (edge, count), before in zip(edges, below, strict=False)
    }
    if len(counts) < len(edges) or any(count < 0 for count in counts.values()):
        raise ConnectionError("a query for a histogram must give cumulative counts, one an `le`")
    return counts
