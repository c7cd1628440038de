"""The champion/challenger gate: may a new model replace the one that serves now?

Both models score the same frozen test set, and the difference of one metric is
bootstrapped in pairs: each resample draws rows, and both models are evaluated on the
same draw, so that what is hard for both cancels out. The interval is the point estimate
plus and minus a normal quantile times the bootstrap's standard error (Efron and
Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13): unlike percentiles it
stays stable at the small tail areas that many slices ask for.

* **Overall**, the burden of proof is on the challenger: it passes when the lower end of
  the interval of its gain is not below `-margin` (non-inferiority; the one-sided level is
  half of what `confidence` leaves).
* **In a slice**, where rows are few, asking for a proof would refuse good challengers by
  chance. A slice blocks when the challenger is worse there by more than `slice_margin`
  and the whole interval, corrected for the number of slices (Bonferroni), is below zero.

A missing value never passes, nor do too few rows in the whole test set to tell. A slice of fewer
than `minimum_rows` rows is not judged: it is listed as such, and does not block.
"""

from collections.abc import Callable, Iterator
from statistics import NormalDist
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from modelyard.documents import UserError
from modelyard.documents.signature import Task
from modelyard.pipeline.config.gate import LEAST, GatePolicy
from modelyard.pipeline.evaluation.metrics import PRIMARY, check

Statistic = Callable[[np.ndarray], float]
"""a metric as a function of the weight of each row [N]"""

MOST_SLICES = 100


class Comparison(BaseModel):
    """Challenger minus champion on some rows; the interval is of the difference."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: int
    challenger: float
    champion: float
    difference: float
    low: float
    high: float


class SliceResult(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    """`column=value`"""
    rows: int
    verdict: Literal["not worse", "worse", "not judged"]
    comparison: Comparison | None = None


class GateResult(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    passed: bool
    reason: str
    metric: str
    higher_is_better: bool
    policy: GatePolicy
    overall: Comparison | None = None
    slices: tuple[SliceResult, ...] = ()


def compare(
    task: Task,
    target: np.ndarray,
    champion_score: np.ndarray | None,
    challenger_score: np.ndarray,
    slices: dict[str, np.ndarray],
    policy: GatePolicy,
    classes: tuple[str, ...] = (),
) -> GateResult:
    """Decide whether the challenger may replace the champion.

    Args:
        task: what both models predict.
        target: [N], as in `evaluation.metrics`.
        champion_score: what the serving model predicts for the same rows; None before
            any model serves.
        challenger_score: [N], or [N, len(classes)] in a multiclass task.
        slices: column → the value of each row [N]; usually the columns of `policy.slices`.
        policy: the team's margins.
        classes: the names of the classes, for the messages.

    Raises:
        UserError: the policy names a metric that the task does not have, or a slice column
            has another length or too many values.
    """
    metric, higher = _metric(task, policy)

    def result(passed: bool, reason: str, **found) -> GateResult:
        return GateResult(
            passed=passed,
            reason=reason,
            metric=metric,
            higher_is_better=higher,
            policy=policy,
            **found,
        )

    try:
        target, challenger = check(task, target, challenger_score, classes)
    except UserError as error:
        return result(False, f"the challenger cannot be judged: {error}")
    if champion_score is None:
        return result(True, "no champion")
    try:
        target, champion = check(task, target, champion_score, classes)
    except UserError as error:
        return result(False, f"the champion cannot be compared with: {error}")
    parts = list(groups(slices, len(target)))

    overall = _difference(metric, task, target, champion, challenger, policy, 1)
    if overall is None:
        return result(
            False,
            f"{len(target)} test rows are too few to compare by {metric}; "
            "choose a longer test period",
        )
    large = {name for name, rows in parts if len(rows) >= policy.minimum_rows}
    judged = []
    for name, rows in parts:
        found = None
        if name in large:
            found = _difference(
                metric, task, target[rows], champion[rows], challenger[rows], policy, len(large)
            )
        judged.append(
            SliceResult(
                name=name,
                rows=len(rows),
                comparison=found,
                verdict=_verdict(found, higher, policy.slice_margin),
            )
        )

    worse = [s for s in judged if s.verdict == "worse"]
    gain = overall.low if higher else -overall.high
    passed = gain >= -policy.margin and not worse
    reason = _overall_reason(metric, overall, gain >= -policy.margin, policy)
    if worse:
        reason += "; worse in " + ", ".join(_slice_reason(s) for s in worse)
    return result(passed, reason, overall=overall, slices=tuple(judged))


def _metric(task: Task, policy: GatePolicy) -> tuple[str, bool]:
    known = {
        "binary": {"auc": True, "log_loss": False, "brier": False},
        "multiclass": {"log_loss": False, "auc": True, "accuracy": True},
        "regression": {"mae": False, "rmse": False},
    }[task]
    metric = policy.metric or PRIMARY[task][0]
    if metric not in known:
        raise UserError(
            f"gate: metric: a {task} model has no {metric!r}; choose one of {', '.join(known)}"
        )
    return metric, known[metric]


def groups(slices: dict[str, np.ndarray], rows: int) -> Iterator[tuple[str, np.ndarray]]:
    """(`column=value`, the indices of its rows), sorted by name."""
    for column, values in sorted(slices.items()):
        labels = np.array([_label(v) for v in np.asarray(values).tolist()], dtype=str)
        if labels.shape != (rows,):
            raise UserError(f"slice {column}: {labels.shape} values for {rows} test rows")
        names, codes = np.unique(labels, return_inverse=True)
        if len(names) > MOST_SLICES:
            raise UserError(
                f"gate: slices: {column} has {len(names)} different values, more than "
                f"{MOST_SLICES}; slice by a column with few values, or bin this one"
            )
        for code, name in enumerate(names):
            yield f"{column}={name}", np.flatnonzero(codes == code)


def _label(value: object) -> str:
    return "(missing)" if value is None or value != value else str(value)


def _difference(
    metric: str,
    task: Task,
    target: np.ndarray,
    champion: np.ndarray,
    challenger: np.ndarray,
    policy: GatePolicy,
    tests: int,
) -> Comparison | None:
    """The paired bootstrap on some rows; None where they are too few.

    For the AUC the draw is stratified by class, as in pROC's default (Robin et al., BMC
    Bioinformatics 12:77, 2011): no resample lacks a class.
    """
    classes = challenger.shape[1] if challenger.ndim == 2 else 2
    strata = target if metric == "auc" else np.zeros(len(target), dtype=np.int64)
    counts = np.bincount(strata, minlength=classes if metric == "auc" else 1)
    if counts.min() < LEAST:
        return None
    old, new = (_statistic(metric, task, target, s) for s in (champion, challenger))
    rows = np.ones(len(target))
    before, after = old(rows), new(rows)
    replicates = [new(w) - old(w) for w in _draws(strata, policy.resamples)]
    error = float(np.std(replicates, ddof=1))
    tail = (1 - policy.confidence) / 2 / tests
    reach = NormalDist().inv_cdf(1 - tail) * error
    difference = after - before
    return Comparison(
        rows=len(target),
        challenger=after,
        champion=before,
        difference=difference,
        low=difference - reach,
        high=difference + reach,
    )


def _draws(strata: np.ndarray, resamples: int) -> Iterator[np.ndarray]:
    """How often each row is drawn [N], `resamples` times; the same for the same rows."""
    random = np.random.default_rng(0)
    members = [np.flatnonzero(strata == s) for s in np.unique(strata)]
    for _ in range(resamples):
        weights = np.empty(len(strata))
        for rows in members:
            drawn = random.integers(len(rows), size=len(rows))
            weights[rows] = np.bincount(drawn, minlength=len(rows))
        yield weights


def _statistic(metric: str, task: Task, target: np.ndarray, score: np.ndarray) -> Statistic:
    if metric == "auc" and task == "multiclass":
        each = [_auc(target == k, score[:, k]) for k in range(score.shape[1])]
        return lambda weights: float(np.mean([auc(weights) for auc in each]))
    if metric == "auc":
        return _auc(target == 1, score)
    if metric == "rmse":
        square = _mean((score - target) ** 2)
        return lambda weights: square(weights) ** 0.5
    if metric == "mae":
        return _mean(np.abs(score - target))
    if metric == "brier":
        return _mean((score - target) ** 2)
    if metric == "accuracy":
        return _mean((score.argmax(axis=1) == target).astype(np.float64))
    likelihood = (
        score[np.arange(len(target)), target]
        if score.ndim == 2
        else np.where(target == 1, score, 1 - score)
    )
    return _mean(-np.log(np.maximum(likelihood, np.finfo(np.float64).eps)))


def _mean(of_row: np.ndarray) -> Statistic:
    return lambda weights: float(weights @ of_row / weights.sum())


def _auc(positive: np.ndarray, score: np.ndarray) -> Statistic:
    """The area under the ROC curve as Mann-Whitney's U, ties counted half.

    Where each positive row stands among the negative ones is looked up once (DeLong's
    placement values, by sorting: Sun and Xu, IEEE Signal Processing Letters 21(11), 2014);
    each resample is then a cumulative sum.
    """
    above = np.flatnonzero(positive)
    below = np.flatnonzero(~positive)
    below = below[np.argsort(score[below])]
    first, last = (np.searchsorted(score[below], score[above], side) for side in ("left", "right"))

    def auc(weights: np.ndarray) -> float:
        up_to = np.concatenate(([0.0], np.cumsum(weights[below])))
        hits = weights[above]
        return float(hits @ (up_to[first] + up_to[last]) / (2 * hits.sum() * up_to[-1]))

    return auc


def _verdict(
    found: Comparison | None, higher: bool, margin: float
) -> Literal["not worse", "worse", "not judged"]:
    if found is None:
        return "not judged"
    gain, best = (found.difference, found.high) if higher else (-found.difference, -found.low)
    return "worse" if gain < -margin and best < 0 else "not worse"


def _overall_reason(metric: str, c: Comparison, passed: bool, policy: GatePolicy) -> str:
    return (
        f"{metric.upper() if metric == 'auc' else metric} {_number(c.challenger)} vs champion "
        f"{_number(c.champion)}: {_number(c.difference, '+')}, {policy.confidence * 100:g} % "
        f"interval [{_number(c.low, '+')}, {_number(c.high, '+')}]; "
        f"{'non-inferior' if passed else 'not shown to be non-inferior'} "
        f"at margin {policy.margin:g}"
    )


def _slice_reason(s: SliceResult) -> str:
    assert s.comparison is not None
    c = s.comparison
    return (
        f"{s.name} ({s.rows} rows): {_number(c.difference, '+')}, corrected interval "
        f"[{_number(c.low, '+')}, {_number(c.high, '+')}]"
    )


def _number(value: float, sign: str = "") -> str:
    return f"{value:{sign}.4f}" if abs(value) < 10 else f"{value:{sign}.2f}"
