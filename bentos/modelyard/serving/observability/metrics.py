"""What `/metrics` tells of `/predict`: requests, latency, batches, scores, by model version.

Requests are counted under BentoML's own names, so that what reads a Bento's metrics reads
these. All is counted in plain Python while requests are answered, and given to Prometheus
in one go before a scrape and every second (another worker may be asked), which costs a
hundredth of a write for each.
"""

import bisect
import collections
from pathlib import Path
from typing import Any

import numpy as np
from prometheus_client import REGISTRY, Counter, Gauge, Histogram

from modelyard.documents import Signature
from modelyard.documents.http import PREDICT_ROUTE
from modelyard.documents.metrics import REQUEST_SCORE, SCORE_LEVELS, STATUS
from modelyard.documents.package import SCORE
from modelyard.documents.prediction_log import sampled_row
from modelyard.serving.bentoml_compat.prometheus import forget_the_killed, observe_counts
from modelyard.serving.bentoml_compat.request_metrics import own_labels, request_families
from modelyard.serving.codec.types import Prediction
from modelyard.serving.observability import buckets


class Tally:
    """Counts of a histogram that Prometheus has not been given yet."""

    def __init__(self, histogram: Any, bounds: list[float]) -> None:
        self._histogram = histogram
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect.bisect_left(self._bounds, value)] += 1
        self._sum += value

    def observe_all(self, values: np.ndarray) -> None:
        """[N]"""
        if len(values) < 16:
            for value in values.tolist():
                self.observe(value)
            return
        places = np.searchsorted(self._bounds, values, side="left")
        counts = np.bincount(places, minlength=len(self._counts)).tolist()
        self._counts = [a + b for a, b in zip(self._counts, counts, strict=True)]
        self._sum += float(values.sum())

    def flush(self) -> None:
        counts, self._counts = self._counts, [0] * len(self._counts)
        observe_counts(self._histogram, counts, self._sum)
        self._sum = 0.0


class Metrics:
    """`bentoml_service_request…` of `/predict`, and `modelyard_…`: predictions, score, batches.

    The score is the probability of `classes[1]` (binary), of the likeliest class
    (multiclass), or the value (regression).
    """

    def __init__(self, name: str, version: int, signature: Signature, reference: Path) -> None:
        self._labels = {"model": name, "version": str(version)}
        self._multiclass = signature.task == "multiclass"
        self._classes = signature.classes
        self._families: list[Any] = []
        forget_the_killed()
        regression = signature.task == "regression"
        scores = _quantiles(reference) if regression else [*SCORE_LEVELS]
        self._predictions = self._family(
            Counter, "modelyard_predictions", "Rows predicted", ["class"]
        )
        self._score = self._histogram("modelyard_score", "Score of a row", scores)
        self._asked = self._histogram(REQUEST_SCORE, "Score of one row of each request", scores)
        self._batch = self._histogram(
            "modelyard_batch_rows", "Rows that were scored at once", buckets.BATCH_ROWS
        )
        self._queue = self._family(
            Gauge,
            "modelyard_queue_requests",
            "Requests that wait for a score",
            multiprocess_mode="livesum",
        ).labels(**self._labels)
        self._lost = self._family(
            Counter, "modelyard_prediction_log_lost", "Rows that the prediction log could not take"
        ).labels(**self._labels)
        self._rows: collections.Counter[str] = collections.Counter()
        self._requests = _Requests()

    def answered(self, code: int, seconds: float) -> None:
        """One request of `/predict`."""
        self._requests.count(code, seconds)

    def asked(self, request_id: str, scores: np.ndarray) -> None:
        """One request's rows, [N] or [N, classes], of which one counts."""
        if len(scores):
            row = scores[sampled_row(request_id, len(scores))]
            self._asked.observe(float(row.max() if self._multiclass else row))

    def scored(self, scores: np.ndarray) -> None:
        """Rows of one batch, [N] or [N, classes], that the model scored."""
        self._batch.observe(len(scores))
        if self._multiclass:
            self._score.observe_all(scores.max(axis=1))
            codes = np.bincount(scores.argmax(axis=1), minlength=len(self._classes)).tolist()
        else:
            self._score.observe_all(scores)
            late = int((scores >= 0.5).sum()) if self._classes else 0
            codes = [len(scores) - late, late] if self._classes else [len(scores)]
        for name, count in zip(self._classes or ("",), codes, strict=True):
            self._rows[name] += count

    def predicted(self, predictions: list[Prediction]) -> None:
        """Rows of one request that a team's code predicted."""
        self._batch.observe(len(predictions))
        for prediction in predictions:
            score = prediction["score"]
            self._score.observe(max(score) if isinstance(score, list) else score)
            self._rows[prediction.get("class", "")] += 1

    def lost(self, rows: int) -> None:
        """May be called from any thread."""
        self._lost.inc(rows)

    def flush(self, waiting: int) -> None:
        """Give Prometheus what was counted since; `waiting` requests are in the queue."""
        self._requests.flush()
        self._score.flush()
        self._asked.flush()
        self._batch.flush()
        self._queue.set(waiting)
        rows, self._rows = self._rows, collections.Counter()
        for name, count in rows.items():
            self._predictions.labels(**self._labels, **{"class": name}).inc(count)

    def close(self) -> None:
        """Let another model of this process have the names."""
        for family in self._families:
            REGISTRY.unregister(family)

    def _family(self, kind: Any, name: str, text: str, more: Any = (), **given: Any) -> Any:
        family = kind(name, text, [*self._labels, *more], **given)
        self._families.append(family)
        return family

    def _histogram(self, name: str, text: str, bounds: list[float]) -> Tally:
        family = self._family(Histogram, name, text, buckets=bounds)
        return Tally(family.labels(**self._labels), bounds)


class _Requests:
    """BentoML's request metrics of `/predict`, which its middleware does not see."""

    def __init__(self) -> None:
        self._names = own_labels(PREDICT_ROUTE)
        self._total, self._duration = request_families(buckets.DURATION_S)
        self._counts: dict[int, int] = {}
        self._tallies: dict[int, Tally] = {}
        for code in (200, 500):  # a rate needs a first sample
            self._tally(code)

    def count(self, code: int, seconds: float) -> None:
        tally = self._tallies.get(code) or self._tally(code)
        tally.observe(seconds)
        self._counts[code] = self._counts.get(code, 0) + 1

    def flush(self) -> None:
        counts, self._counts = self._counts, {}
        for code, count in counts.items():
            self._total.labels(**self._names, **{STATUS: code}).inc(count)
            self._tallies[code].flush()

    def _tally(self, code: int) -> Tally:
        self._total.labels(**self._names, **{STATUS: code})
        child = self._duration.labels(**self._names, **{STATUS: code})
        return self._tallies.setdefault(code, Tally(child, buckets.DURATION_S))


def _quantiles(reference: Path) -> list[float]:
    """Bucket bounds that cut the trainer's scores into about twenty equal parts."""
    import pyarrow.parquet as pq

    scores = pq.ParquetFile(reference).read([SCORE], use_threads=False)[SCORE].to_numpy()
    bounds = np.quantile(scores, SCORE_LEVELS)
    return sorted({float(f"{bound:.3g}") for bound in bounds})
