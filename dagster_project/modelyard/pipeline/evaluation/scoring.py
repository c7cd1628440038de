"""An exported model's scores of a Parquet dataset, and the target beside them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from modelyard.documents import Signature, UserError
from modelyard.pipeline.data.tensors import chunks, encode, target

Scorer = Callable[[np.ndarray, np.ndarray], np.ndarray]


def load(path: Path) -> Scorer:
    """The exported model as a function of arrays (numbers, categories) → score.

    It computes on one thread: with more, the last digits of a score would depend on how many
    there are, and a version could be built again only where there are as many.
    """
    import torch

    model = torch.export.load(path).module()

    def score(numbers: np.ndarray, categories: np.ndarray) -> np.ndarray:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with torch.no_grad():
                return model(torch.from_numpy(numbers), torch.from_numpy(categories)).numpy()
        finally:
            torch.set_num_threads(threads)

    return score


def score_dataset(model: Path, signature: Signature, dataset: Path) -> np.ndarray:
    """Scores of a Parquet dataset's rows, [N] or [N, classes].

    Raises:
        UserError: the dataset lacks an input of the model.
    """
    score = load(model)
    return np.concatenate([score(*encode(chunk, signature)) for chunk in chunks(dataset)])


def read_target(dataset: Path, signature: Signature) -> np.ndarray:
    """[N] as `modelyard.pipeline.evaluation.metrics` takes it."""
    values = np.concatenate([target(chunk, signature) for chunk in chunks(dataset)])
    return values if signature.task == "regression" else values.astype(np.int64)


def read_slice(test: Path, name: str) -> np.ndarray:
    """The values [N] of a column that the policy slices by.

    Raises:
        UserError: there is no such column.
    """
    try:
        return pl.read_parquet(test, columns=[name])[name].to_numpy()
    except pl.exceptions.ColumnNotFoundError:
        raise UserError(f"config.yaml: gate.slices: the features have no column {name!r}") from None
