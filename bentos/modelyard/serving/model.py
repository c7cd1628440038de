"""A model package, loaded: rows in, predictions out."""

import json
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np

from modelyard.documents import Signature, UserError, verify_package
from modelyard.serving.encoding import Encoder, Row

Prediction = TypedDict("Prediction", {"score": float | list[float], "class": NotRequired[str]})
"""`score`: the probability of `classes[1]` (binary), of each class (multiclass), or the
value (regression). `class`: the likeliest class; a regression has none."""

SELF_CHECK_ROWS = 256
TOLERANCE = 1e-4


class Model:
    """The graph of a verified package on one CPU thread."""

    def __init__(self, package: Path) -> None:
        """Load and check a package.

        Raises:
            UserError: a file is missing or changed, this torch can't load the graph, or
                the graph's scores for `reference.parquet` are not those of the training.
        """
        import torch

        torch.set_num_threads(1)  # one thread a worker: more workers, not more threads
        _, self.signature, _ = verify_package(package)
        self.encoder = Encoder(self.signature)
        try:
            self._graph = torch.export.load(package / "model.pt2").module()
        except Exception as error:
            raise UserError(
                f"model package {package}: torch {torch.__version__} can't load model.pt2: {error}"
            ) from error
        self._check(package / "reference.parquet")

    def scores(self, rows: list[Row]) -> np.ndarray:
        """float32 [N], or [N, classes] of a multiclass model."""
        import torch

        numbers, categories = self.encoder.encode(rows)
        with torch.inference_mode():
            return self._graph(torch.from_numpy(numbers), torch.from_numpy(categories)).numpy()

    def predict(self, rows: list[Row]) -> list[Prediction]:
        """One prediction a row, in the order of the rows."""
        scores = self.scores(rows)
        classes = self.signature.classes
        if self.signature.task == "regression":
            return [{"score": score} for score in scores.tolist()]
        if self.signature.task == "binary":
            return [{"score": s, "class": classes[s >= 0.5]} for s in scores.tolist()]
        likeliest = scores.argmax(axis=1).tolist()
        return [
            {"score": s, "class": classes[c]}
            for s, c in zip(scores.tolist(), likeliest, strict=True)
        ]

    def _check(self, reference: Path) -> None:
        """Score rows of the reference as a request would, and compare with the trainer's scores.

        This is what shows a skew between training and serving before any traffic does.
        """
        rows, expected = _reference(reference, self.signature)
        where = f"{reference}: self-check failed"
        if errors := self.encoder.errors(rows):
            index, field, message = errors[0]
            raise UserError(f"{where}: row {index}: {field}: {message}; train the model again")
        found = self.scores(rows)
        if found.shape != expected.shape:
            raise UserError(
                f"{where}: the graph's scores have shape {found.shape}, "
                f"the trainer's {expected.shape}; train the model again"
            )
        difference = np.abs(found - expected) / np.maximum(1, np.abs(expected))
        if not (difference <= TOLERANCE).all():
            row = int(
                np.argmax(np.nan_to_num(difference, nan=np.inf).reshape(len(rows), -1).max(1))
            )
            raise UserError(
                f"{where}: training and serving differ: {json.dumps(rows[row])} scores "
                f"{found[row]} here and {expected[row]} in training; "
                "the package is not fit to serve: train the model again"
            )


def _reference(path: Path, signature: Signature) -> tuple[list[Any], np.ndarray]:
    """Rows spread over the file, and the trainer's scores for them (float32, as `Model.scores`)."""
    import polars as pl

    inputs = [i.name for i in signature.inputs]
    multiclass = signature.task == "multiclass"
    scores = [f"score_{c}" for c in signature.classes] if multiclass else ["score"]
    try:
        frame = pl.read_parquet(path, columns=inputs + scores)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise UserError(f"{path}: self-check failed: {error}; train the model again") from None
    if frame.is_empty():
        raise UserError(f"{path}: self-check failed: no rows; train the model again")
    frame = frame.gather_every(max(1, len(frame) // SELF_CHECK_ROWS))
    expected = frame.select(scores).to_numpy().astype(np.float32)
    rows = frame.select(inputs).fill_nan(None).to_dicts()
    return rows, expected if multiclass else expected[:, 0]
