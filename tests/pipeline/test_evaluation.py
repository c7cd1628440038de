import numpy as np
import pytest

from modelyard.documents import UserError
from modelyard.pipeline.evaluation.metrics import PRIMARY, metrics

CLASSES = ("early", "on time", "late")


def test_binary_by_hand():
    found = metrics("binary", np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8]))
    assert found["auc"] == pytest.approx(0.75)  # 3 of the 4 pairs stand in order
    assert found["brier"] == pytest.approx((0.01 + 0.16 + 0.4225 + 0.04) / 4)
    assert found["log_loss"] == pytest.approx(-np.log([0.9, 0.6, 0.35, 0.8]).mean())
    assert found["base_rate"] == 0.5


def test_multiclass_by_hand():
    score = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.5, 0.3, 0.2]], dtype=np.float32)
    found = metrics("multiclass", np.array([0, 1, 2]), score, CLASSES)
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["log_loss"] == pytest.approx(-np.log([0.7, 0.8, 0.2]).mean())
    assert found["auc"] == pytest.approx(1.0)


def test_regression_by_hand():
    found = metrics("regression", np.array([0.0, 10, -10]), np.array([1.0, 10, -14]))
    assert found["mae"] == pytest.approx(5 / 3)
    assert found["rmse"] == pytest.approx((17 / 3) ** 0.5)
    assert found["median_ae"] == pytest.approx(1)
    assert found["r2"] == pytest.approx(1 - 17 / 200)


@pytest.mark.parametrize("task", PRIMARY)
def test_primary_metric_is_one_of_the_metrics(task):
    target = np.tile([0, 1, 2], 5) if task == "multiclass" else np.tile([0, 1], 5)
    score = np.full((15, 3), 1 / 3) if task == "multiclass" else np.full(10, 0.5)
    assert PRIMARY[task][0] in metrics(task, target, score)


@pytest.mark.parametrize(
    ("task", "target", "score", "message"),
    [
        ("binary", [0, 0, 0], [0.1, 0.2, 0.3], "no row of class 1"),
        ("binary", [0, 1, 1], [0.1, np.nan, 0.3], "score of 1 of 3"),
        ("binary", [0, 1, 1], [0.1, np.inf, 0.3], "score of 1 of 3"),
        ("binary", [0, 1, np.nan], [0.1, 0.2, 0.3], "target of 1 of 3"),
        ("binary", [0, 1], [0.1, 0.2, 0.3], "do not belong together"),
        ("binary", [0, 1], [[0.1, 0.9], [0.2, 0.8]], "do not belong together"),
        ("binary", [0, 1, 2], [0.1, 0.2, 0.3], "values other than 0 … 1"),
        ("binary", [0, 1], [-2.0, 3.0], "must return probabilities"),
        ("binary", [], [], "test rows"),
        ("multiclass", [0, 1, 1], [[0.2, 0.8]] * 2, "do not belong together"),
        ("multiclass", [0, 1, 1], [[0.2, 0.8]] * 3, "with 3 classes"),
        ("multiclass", [0, 1, 1], [[0.2, 0.3, 0.5]] * 3, "no row of class late"),
        ("multiclass", [0, 1, 2], [[0.2, 0.3, 0.6]] * 3, "do not sum to 1"),
        ("regression", [1.0, 2.0], [1.0, np.nan], "score of 1 of 2"),
        ("regression", [1.0], [1.0], "1 test rows"),
    ],
)
def test_degenerate_input_is_one_clear_error(task, target, score, message):
    classes = CLASSES if task == "multiclass" else ()
    with pytest.raises(UserError, match=message):
        metrics(task, np.array(target), np.array(score), classes)
