"""The plots of a model card, by task.

scikit-learn's displays where they show as much: its calibration curve has no intervals, its
confusion matrix no counts beside the shares, its prediction error no density.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from modelyard.documents import Signature
from modelyard.pipeline.config.palette import ACCENT, INK, MUTED, WARM

if TYPE_CHECKING:
    from matplotlib.axes import Axes


PLOTS = "plots"


def draw_plots(
    folder: Path, signature: Signature, target: np.ndarray, score: np.ndarray
) -> dict[str, str]:
    """Write the plots of a task; file name → title."""
    from matplotlib.figure import Figure  # no pyplot: no display, no global state

    plots = {
        "binary": {
            "roc.png": ("ROC curve", _roc),
            "calibration.png": ("Calibration", _calibration),
        },
        "multiclass": {"confusion.png": ("Confusion matrix", _confusion)},
        "regression": {
            "prediction.png": ("Predicted and actual", _prediction),
            "residuals.png": ("Residuals", _residuals),
        },
    }[signature.task]
    folder.mkdir(parents=True, exist_ok=True)
    for file, (title, draw) in plots.items():
        figure = Figure(figsize=(5.2, 4.6), dpi=110, layout="constrained")
        axes = figure.add_subplot()
        draw(axes, signature, target, score)
        axes.set_title(f"{title}: {signature.target}", loc="left", fontsize=11, color=INK)
        axes.spines[["top", "right"]].set_visible(False)
        # Without the library's version in it, equal figures are equal files.
        figure.savefig(folder / file, metadata={"Software": None})
    return {file: title for file, (title, _) in plots.items()}


def _roc(axes: "Axes", signature: Signature, target: np.ndarray, score: np.ndarray) -> None:
    from sklearn.metrics import RocCurveDisplay

    RocCurveDisplay.from_predictions(
        target,
        score,
        ax=axes,
        name="model",
        curve_kwargs={"color": ACCENT, "linewidth": 2},
        plot_chance_level=True,
        chance_level_kw={"color": MUTED, "linewidth": 1},
    )
    axes.set(xlabel="false positive rate", ylabel="true positive rate")
    axes.legend(loc="lower right", frameon=False)


def _calibration(axes: "Axes", signature: Signature, target: np.ndarray, score: np.ndarray) -> None:
    """Observed share against mean score in bins of equal size, with 95 % Wilson intervals."""
    order = np.argsort(score, kind="stable")
    bins = np.array_split(order, max(1, min(15, len(order) // 20)))
    x = np.array([score[b].mean() for b in bins])
    y = np.array([target[b].mean() for b in bins])
    n, z = np.array([len(b) for b in bins]), 1.96
    centre = (y + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z / (1 + z**2 / n) * np.sqrt(y * (1 - y) / n + z**2 / (4 * n**2))
    top = min(1.0, 1.08 * max(float(x.max()), float((centre + reach).max())))
    histogram = axes.twinx()
    histogram.hist(score, bins=40, range=(0, top), color=MUTED, alpha=0.35)
    histogram.set_ylim(0, histogram.get_ylim()[1] * 4)
    histogram.set_yticks([])
    histogram.spines[:].set_visible(False)
    axes.set_zorder(histogram.get_zorder() + 1)
    axes.patch.set_visible(False)
    axes.plot([0, top], [0, top], color=MUTED, linestyle="--", linewidth=1, label="perfect")
    axes.vlines(x, centre - reach, centre + reach, color=ACCENT, linewidth=1)
    axes.plot(x, y, "o", color=ACCENT, markersize=4, label="observed, 95 % interval")
    name = signature.classes[-1] if signature.classes else "1"
    axes.set(
        xlabel=f"predicted probability of {name!r} (grey: how many rows)",
        ylabel="observed share",
        xlim=(0, top),
        ylim=(0, top),
    )
    axes.legend(loc="upper left", frameon=False)


def _confusion(axes: "Axes", signature: Signature, target: np.ndarray, score: np.ndarray) -> None:
    """Rows as shares of the actual class, with the counts."""
    from sklearn.metrics import confusion_matrix

    labels = np.arange(len(signature.classes))
    counts = confusion_matrix(target, score.argmax(axis=1), labels=labels)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        axes.text(
            column,
            row,
            f"{share[row, column]:.0%}\n{count:,}",
            ha="center",
            va="center",
            color="white" if share[row, column] > 0.55 else INK,
            fontsize=10,
        )
    axes.set_xticks(labels, signature.classes)
    axes.set_yticks(labels, signature.classes, rotation=90, va="center")
    axes.set(xlabel="predicted class", ylabel="actual class (each row sums to 100 %)")
    axes.tick_params(length=0)


def _prediction(axes: "Axes", signature: Signature, target: np.ndarray, score: np.ndarray) -> None:
    """Density of (predicted, actual) between their 1st and 99th percentile, and its centre."""
    x_ends, y_ends = np.percentile(score, [1, 99]), np.percentile(target, [1, 99])
    bins = axes.hexbin(
        score,
        target,
        gridsize=45,
        extent=(*_wide(x_ends), *_wide(y_ends)),
        cmap="Blues",
        bins="log",
        mincnt=1,
        linewidths=0,
    )
    axes.figure.colorbar(bins, ax=axes, label="rows", shrink=0.8)
    order = np.argsort(score, kind="stable")
    parts = np.array_split(order, max(1, min(15, len(order) // 20)))
    predicted = [score[p].mean() for p in parts]
    for of, style in ((np.mean, "o-"), (np.median, "o:")):
        actual = [of(target[p]) for p in parts]
        axes.plot(
            predicted,
            actual,
            style,
            color=WARM,
            markersize=3.5,
            linewidth=1.2,
            label=f"{of.__name__} of actual",
        )
    ends = _wide(x_ends)
    axes.plot(ends, ends, color=INK, linestyle="--", linewidth=1, label="perfect")
    axes.set(
        xlabel=f"predicted {signature.target}",
        ylabel=f"actual {signature.target}",
        xlim=_wide(x_ends),
        ylim=_wide(y_ends),
    )
    axes.legend(loc="upper left", frameon=False)


def _residuals(axes: "Axes", signature: Signature, target: np.ndarray, score: np.ndarray) -> None:
    residual = target - score
    low, high = _wide(np.percentile(residual, [0.5, 99.5]))
    axes.hist(residual, bins=80, range=(low, high), color=ACCENT, alpha=0.75)
    axes.axvline(0, color=INK, linestyle="--", linewidth=1)
    axes.axvline(
        float(np.median(residual)),
        color=WARM,
        linewidth=1.2,
        label=f"median {np.median(residual):+.3g}",
    )
    beyond = float(np.mean((residual < low) | (residual > high)))
    axes.set(
        xlabel=f"actual − predicted {signature.target} ({beyond:.1%} of rows lie beyond)",
        ylabel="rows",
        xlim=(low, high),
    )
    axes.legend(loc="upper right", frameon=False)


def _wide(ends: np.ndarray) -> tuple[float, float]:
    """A plottable range, also where all values are equal."""
    low, high = map(float, ends)
    return (low, high) if high > low else (low - 0.5, high + 0.5)
