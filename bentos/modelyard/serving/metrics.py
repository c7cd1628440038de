"""What `/metrics` tells beyond BentoML's own: predictions and scores by model version."""

import collections
from pathlib import Path

import numpy as np
from prometheus_client import REGISTRY, Counter, Histogram

from modelyard.documents import Signature
from modelyard.serving.model import Prediction

PROBABILITY_BUCKETS = [round(b, 2) for b in np.arange(0.05, 1.0, 0.05)] + [1.0]


class Metrics:
    """`modelyard_predictions_total`, `modelyard_score`, `modelyard_prediction_log_lost_total`.

    All by model and version. The score is the probability of `classes[1]` (binary), of
    the likeliest class (multiclass), or the value (regression).
    """

    def __init__(self, name: str, version: int, signature: Signature, reference: Path) -> None:
        labels = ["model", "version"]
        values = (name, str(version))
        regression = signature.task == "regression"
        buckets = _quantiles(reference) if regression else PROBABILITY_BUCKETS
        predictions = Counter("modelyard_predictions", "Rows predicted", [*labels, "class"])
        scores = Histogram("modelyard_score", "Score of a row", labels, buckets=buckets)
        lost = Counter(
            "modelyard_prediction_log_lost", "Rows that the prediction log could not take", labels
        )
        self._families = [predictions, scores, lost]
        self._predictions = lambda c: predictions.labels(*values, c)
        self._score = scores.labels(*values)
        self._lost = lost.labels(*values)

    def observe(self, predictions: list[Prediction]) -> None:
        for prediction in predictions:
            score = prediction["score"]
            self._score.observe(max(score) if isinstance(score, list) else score)
        for name, count in collections.Counter(p.get("class", "") for p in predictions).items():
            self._predictions(name).inc(count)

    def lost(self, rows: int) -> None:
        self._lost.inc(rows)

    def close(self) -> None:
        """Let another model of this process have the names."""
        for family in self._families:
            REGISTRY.unregister(family)


def _quantiles(reference: Path) -> list[float]:
    """Bucket bounds that cut the trainer's scores into about twenty equal parts."""
    import polars as pl

    scores = pl.read_parquet(reference, columns=["score"])["score"].to_numpy()
    bounds = np.quantile(scores, np.linspace(0.05, 1, 20))
    return sorted({float(f"{bound:.3g}") for bound in bounds})
