"""What Envoy has counted, read from its statistics."""

import json
from collections import Counter, defaultdict

from modelyard.delivery.evidence.counts import Arm

COUNTS = (
    r"/stats?format=json&usedonly&histogram_buckets=detailed"
    r"&filter=^cluster\.(replay-)?v\d%2B\.upstream_rq_(\dxx|time|active)$"
)


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
