"""A model package, loaded: rows in, predictions out."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from modelyard.coding import Coder, same_scores, score_differences
from modelyard.documents import Signature, UserError, verify_package
from modelyard.documents.package import REFERENCE, score_columns
from modelyard.serving.codec.types import Prediction, Row
from modelyard.serving.codec.validation import Validator
from modelyard.serving.inference.runtime import load_graph

SELF_CHECK_ROWS = 256


class Model:
    """The graph of a verified package on one CPU thread."""

    def __init__(self, package: Path) -> None:
        """Load and check a package.

        Raises:
            UserError: a file is missing or changed, the runtime can't load the graph, or
                the graph's scores for `reference.parquet` are not those of the training.
        """
        _, self.signature, _ = verify_package(package)
        self._coder, self._validator = Coder(self.signature), Validator(self.signature)
        self.graph = load_graph(package)
        self._check(package / REFERENCE)

    def scores(self, rows: list[Row]) -> np.ndarray:
        """float32 [N], or [N, classes] of a multiclass model; the rows fit the signature."""
        return self.graph(*self._coder.rows(rows))

    def predict(self, rows: list[Row]) -> list[Prediction]:
        """One prediction a row, in the order of the rows, which fit the signature."""
        return self.predictions(self.scores(rows))

    def predictions(self, scores: np.ndarray) -> list[Prediction]:
        """Scores [N] or [N, classes] with the class that each row most likely has."""
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

    def columns(self, scores: np.ndarray) -> dict[str, Any]:
        """The same as columns: `score` and, of a classification, `class`."""
        classes = self.signature.classes
        if self.signature.task == "regression":
            return {"score": scores.tolist()}
        codes = scores >= 0.5 if self.signature.task == "binary" else scores.argmax(axis=1)
        return {"score": scores.tolist(), "class": [classes[code] for code in codes.tolist()]}

    def _check(self, reference: Path) -> None:
        """Score rows of the reference as a request would, and compare with the trainer's scores.

        This is what shows a skew between training and serving before any traffic does.
        """
        rows, expected = _reference(reference, self.signature)
        where = f"{reference}: self-check failed"
        if errors := self._validator.errors(rows):
            index, field, message = errors[0]
            raise UserError(f"{where}: row {index}: {field}: {message}; train the model again")
        found = self.scores(rows)
        if found.shape != expected.shape:
            raise UserError(
                f"{where}: the graph's scores have shape {found.shape}, "
                f"the trainer's {expected.shape}; train the model again"
            )
        if not same_scores(found, expected):
            apart = np.nan_to_num(score_differences(found, expected), nan=np.inf)
            row = int(np.argmax(apart.reshape(len(rows), -1).max(1)))
            raise UserError(
                f"{where}: training and serving differ: {json.dumps(rows[row])} scores "
                f"{found[row]} here and {expected[row]} in training; "
                "the package is not fit to serve: train the model again"
            )


def _reference(path: Path, signature: Signature) -> tuple[list[Any], np.ndarray]:
    """Rows spread over the file, and the trainer's scores for them (float32, as the graph's)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    inputs = [i.name for i in signature.inputs]
    scores = score_columns(signature)
    try:
        table = pq.ParquetFile(path).read(inputs + scores, use_threads=False)
        table = table.select(inputs + scores)  # `read` leaves out what is missing, and says nothing
    except (OSError, KeyError, pa.ArrowException) as error:
        raise UserError(f"{path}: self-check failed: {error}; train the model again") from None
    if not table.num_rows:
        raise UserError(f"{path}: self-check failed: no rows; train the model again")
    table = table.take(np.arange(0, table.num_rows, max(1, table.num_rows // SELF_CHECK_ROWS)))
    expected = np.column_stack([table[name].to_numpy() for name in scores]).astype(np.float32)
    rows = [
        {name: None if value != value else value for name, value in row.items()}  # NaN is missing
        for row in table.select(inputs).to_pylist()
    ]
    return rows, expected if signature.task == "multiclass" else expected[:, 0]
