"""The model from its declared inputs to its scores, without any source data."""

import numpy as np
import pytest
from modelyard.pipeline.testing import Trained, assets, draw_rows, train

from examples.flights.binary.features import SIGNATURE
from examples.flights.binary.model import project


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Two ranks, on rows drawn from the declared inputs."""
    return train(project, tmp_path_factory.mktemp("model"), ranks=2, epochs=8, hidden=(16,))


def test_definitions_load_with_the_settings() -> None:
    assert {"raw", "valid", "features", "weights", "model_version"} <= assets(project)


def test_the_example_row_has_the_declared_inputs() -> None:
    assert set(SIGNATURE.example) == {given.name for given in SIGNATURE.inputs}


def test_training_learns(trained: Trained) -> None:
    assert trained.history.ranks == 2
    assert trained.history.best_validation_loss < trained.history.epochs[0].validation_loss


def test_the_exported_model_scores_rows(trained: Trained) -> None:
    rows = draw_rows(SIGNATURE, 500)
    # Raises if a score is missing, or is no probability where one is due.
    assert trained.metrics(rows)
    assert np.allclose(trained.scores(rows[:1]), trained.scores(rows)[:1], atol=1e-5)
