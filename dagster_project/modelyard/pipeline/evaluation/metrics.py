"""How good a model is on the frozen test set, by task."""

import numpy as np

from modelyard.documents import UserError
from modelyard.documents.signature import Task

PRIMARY: dict[Task, tuple[str, bool]] = {
    "binary": ("auc", True),
    "multiclass": ("log_loss", False),
    "regression": ("mae", False),
}
"""task → (the metric that two models are compared by, whether higher is better)"""


def metrics(
    task: Task, target: np.ndarray, score: np.ndarray, classes: tuple[str, ...] = ()
) -> dict[str, float]:
    """Evaluate predictions.

    Args:
        task: what the model predicts.
        target: [N]; 0 or 1 (binary), the index into `classes` (multiclass) or the value.
        score: [N] the probability of class 1 (binary) or the prediction (regression),
            [N, len(classes)] the probability of each class (multiclass).
        classes: the names of the classes; only for the messages in a binary task.

    Returns:
        binary: auc, average_precision, log_loss, brier, base_rate;
        multiclass: log_loss, auc (one class against the rest, mean over classes), accuracy,
        base_rate (the share of the most frequent class);
        regression: mae, rmse, median_ae, r2, all but r2 in the target's unit.

    Raises:
        UserError: the arrays do not fit each other or the task, a value is missing, or a
            class has no row (a rank metric is not defined then).
    """
    from sklearn import metrics as sk

    target, score = check(task, target, score, classes)
    if task == "binary":
        return {
            "auc": float(sk.roc_auc_score(target, score)),
            "average_precision": float(sk.average_precision_score(target, score)),
            "log_loss": float(sk.log_loss(target, score)),
            "brier": float(sk.brier_score_loss(target, score)),
            "base_rate": float(target.mean()),
        }
    if task == "multiclass":
        labels = np.arange(score.shape[1])
        return {
            "log_loss": float(sk.log_loss(target, score, labels=labels)),
            "auc": float(sk.roc_auc_score(target, score, multi_class="ovr", labels=labels)),
            "accuracy": float(sk.accuracy_score(target, score.argmax(axis=1))),
            "base_rate": float(np.bincount(target).max() / len(target)),
        }
    return {
        "mae": float(sk.mean_absolute_error(target, score)),
        "rmse": float(sk.root_mean_squared_error(target, score)),
        "median_ae": float(sk.median_absolute_error(target, score)),
        "r2": float(sk.r2_score(target, score)),
    }


def check(
    task: Task, target: np.ndarray, score: np.ndarray, classes: tuple[str, ...] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """The target (int64 [N], float64 for a regression) and the score as float64.

    Raises:
        UserError: as `metrics`.
    """
    target, score = np.asarray(target), np.asarray(score, dtype=np.float64)
    width = score.shape[1] if task == "multiclass" and score.ndim == 2 else 2
    shape = (len(target), width) if task == "multiclass" else (len(target),)
    if score.shape != shape or target.ndim != 1 or (classes and width != len(classes)):
        raise UserError(
            f"{task}: {target.shape} targets and {score.shape} scores do not belong together"
            f"{f' with {len(classes)} classes' if classes else ''}; "
            "score the rows that the targets were taken from"
        )
    if len(target) < 2:
        raise UserError(f"{len(target)} test rows: choose a longer test period")
    for name, values in {"target": target.astype(np.float64), "score": score}.items():
        bad = int((~np.isfinite(values)).reshape(len(values), -1).any(axis=1).sum())
        if bad:
            raise UserError(
                f"the {name} of {bad} of {len(target)} test rows is missing or not finite; "
                + (
                    "let the contract refuse such rows"
                    if name == "target"
                    else "look at the training loss and at the network's inputs"
                )
            )
    if task == "regression":
        return target.astype(np.float64), score
    if score.min() < 0 or score.max() > 1:
        raise UserError(
            f"scores lie in [{score.min():.3g}, {score.max():.3g}], not in [0, 1]; "
            "the exported network must return probabilities"
        )
    if task == "multiclass":
        total = score.sum(axis=1, keepdims=True)
        if np.abs(total - 1).max() > 1e-3:
            raise UserError(
                "the probabilities of a row do not sum to 1; "
                "the exported network must end in a softmax"
            )
        score = score / total  # float32 sums to 1 but for the last digits
    if not np.isin(target, np.arange(width)).all():
        raise UserError(
            f"the target has values other than 0 … {width - 1}; give the index of the class"
        )
    target = target.astype(np.int64)
    empty = np.flatnonzero(np.bincount(target, minlength=width) == 0)
    if len(empty):
        names = ", ".join(classes[k] if classes else str(k) for k in empty)
        raise UserError(
            f"the test set has no row of class {names}; "
            "choose a longer test period, or another definition of the target"
        )
    return target, score
