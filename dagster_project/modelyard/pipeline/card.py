"""`model_card.md` of a model package, with its plots.

The sections are those of Mitchell et al., "Model Cards for Model Reporting" (FAT* 2019).
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import yaml

from modelyard.documents import Manifest, Signature, UserError
from modelyard.documents.signature import Category, Number
from modelyard.pipeline.evaluation import metrics
from modelyard.pipeline.gate import Comparison, GateResult, groups

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CARD = "model_card.md"
PLOTS = "plots"

INK, ACCENT, WARM, MUTED = "#1f2937", "#2563eb", "#dc2626", "#9ca3af"


def write_card(
    package: Path,
    manifest: Manifest,
    signature: Signature,
    target: np.ndarray,
    score: np.ndarray,
    gate_result: GateResult | None,
    slices: dict[str, np.ndarray] | None = None,
    description: str = "",
) -> Path:
    """Write `model_card.md` and `plots/*.png` into a package folder that is being built.

    Args:
        package: the folder; the manifest is written into it after the card.
        manifest: where the model comes from; its `metrics` are shown as they are.
        signature: inputs, target and classes.
        target: [N] of the frozen test set, as in `evaluation.metrics`.
        score: [N] or [N, classes] of the same rows.
        gate_result: the comparison with the champion; None if there was none.
        slices: column → value of each row [N], for the table by slice.
        description: what the model is for, in the owner's words.

    Raises:
        UserError: target and score do not fit each other or the task.
    """
    everything = metrics(signature.task, target, score, signature.classes)
    plots = _plots(package / PLOTS, signature, np.asarray(target), np.asarray(score, np.float64))
    sections = [
        f"# {manifest.name}\n\n{description}".rstrip(),
        _details(manifest, signature),
        _intended_use(description, signature),
        _inputs(signature),
        _data(manifest),
        "## Metrics\n\nOn the frozen test set"
        f" ({len(target):,} rows).\n\n" + _metric_table({**everything, **manifest.metrics}),
        _by_slice(signature, np.asarray(target), np.asarray(score), slices or {}),
        "\n\n".join(f"![{title}]({PLOTS}/{file})" for file, title in plots.items()),
        _gate(gate_result),
        _caveats(manifest, signature),
        _configuration(manifest),
    ]
    card = package / CARD
    card.write_text("\n\n".join(s for s in sections if s) + "\n")
    return card


def _details(manifest: Manifest, signature: Signature) -> str:
    output = {
        "binary": f"probability of `{signature.classes[-1] if signature.classes else 1}`",
        "multiclass": "probability of " + ", ".join(f"`{c}`" for c in signature.classes),
        "regression": f"`{signature.target}`",
    }[signature.task]
    return "## Model details\n\n" + _table(
        ("", ""),
        [
            ("Task", signature.task),
            ("Target", f"`{signature.target}`"),
            ("Output", output),
            ("Created", manifest.created),
            ("Git commit", f"`{manifest.git_commit}`"),
            ("Template version", f"`{manifest.template_version}`"),
            ("Training processes", manifest.ranks),
        ],
    )


def _intended_use(description: str, signature: Signature) -> str:
    what = description or f"To predict `{signature.target}`."
    return (
        f"## Intended use\n\n{what}\n\nOut of scope: rows that the data contract would refuse, "
        "and any use whose users, costs or population differ from those of the data below."
    )


def _inputs(signature: Signature) -> str:
    def domain(column: Number | Category) -> str:
        if isinstance(column, Category):
            shown = ", ".join(column.values[:6])
            more = f", … ({len(column.values)} values)" if len(column.values) > 6 else ""
            return shown + more + (" or any other" if column.open else "")
        ends = ("any" if e is None else f"{e:g}" for e in (column.minimum, column.maximum))
        return " to ".join(ends) + (f" {column.unit}" if column.unit else "")

    return "## Inputs\n\n" + _table(
        ("Name", "Kind", "Values", "May be missing"),
        [
            (f"`{i.name}`", i.kind, domain(i), "yes" if i.nullable else "no")
            for i in signature.inputs
        ],
    )


def _data(manifest: Manifest) -> str:
    return (
        "## Data\n\n"
        + _table(("Rows", ""), [(name, f"{n:,}") for name, n in manifest.rows.items()])
        + f"\n\nData hash `{manifest.data_hash}`, test set hash `{manifest.test_hash}`."
    )


def _metric_table(values: dict[str, float]) -> str:
    return _table(("Metric", "Value"), [(name, f"{v:.4f}") for name, v in values.items()])


def _by_slice(
    signature: Signature, target: np.ndarray, score: np.ndarray, slices: dict[str, np.ndarray]
) -> str:
    rows = []
    for name, index in groups(slices, len(target)):
        try:
            found = metrics(signature.task, target[index], score[index], signature.classes)
        except UserError:  # too small a slice, or one without a class
            found = {}
        rows.append((name, f"{len(index):,}", found))
    columns = next((list(found) for *_, found in rows if found), [])
    if not rows:
        return ""
    return "### By slice\n\n" + _table(
        ("Slice", "Rows", *columns),
        [
            (name, count, *(f"{found[c]:.4f}" if found else "–" for c in columns))
            for name, count, found in rows
        ],
    )


def _gate(result: GateResult | None) -> str:
    if result is None:
        return ""
    text = (
        "## Comparison with the champion\n\n"
        f"**{'Passed' if result.passed else 'Not passed'}**: {result.reason}."
    )
    if result.overall is None:
        return text

    def row(name: str, c: Comparison | None, rows: int, verdict: str) -> tuple[str, ...]:
        if c is None:
            return (name, f"{rows:,}", "–", "–", "–", verdict)
        return (
            name,
            f"{rows:,}",
            f"{c.champion:.4f}",
            f"{c.challenger:.4f}",
            f"{c.difference:+.4f} [{c.low:+.4f}, {c.high:+.4f}]",
            verdict,
        )

    return (
        text
        + "\n\n"
        + _table(
            (
                "Rows of",
                "Rows",
                f"Champion ({result.metric})",
                "Challenger",
                "Difference",
                "Verdict",
            ),
            [row("all", result.overall, result.overall.rows, "passed" if result.passed else "–")]
            + [row(s.name, s.comparison, s.rows, s.verdict) for s in result.slices],
        )
        + (
            f"\n\nPaired bootstrap, {result.policy.resamples} resamples; intervals at "
            f"{result.policy.confidence * 100:g} %, those of slices corrected for their number."
        )
    )


def _caveats(manifest: Manifest, signature: Signature) -> str:
    return (
        "## Caveats and recommendations\n\n"
        f"- The figures hold for the period of the test set ({manifest.rows.get('test', 0):,} "
        "rows); a later period may differ.\n"
        "- Slices that are too small were not judged; look at their row counts before relying "
        "on the model there.\n"
        f"- A difference between groups in `{signature.target}` may come from how it was "
        "recorded.\n"
        "- The scores are associations in past data: they do not say what an intervention "
        "would change."
    )


def _configuration(manifest: Manifest) -> str:
    text = yaml.safe_dump(manifest.configuration, sort_keys=False, default_flow_style=None)
    return f"## Configuration\n\n```yaml\n{text}```"


def _table(head: tuple[str, ...], rows: list[tuple]) -> str:
    def line(cells: tuple) -> str:
        return "| " + " | ".join(str(c).replace("|", "\\|") for c in cells) + " |"

    return "\n".join([line(head), line(("---",) * len(head)), *map(line, rows)])


def _plots(
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
    from sklearn.metrics import auc, roc_curve

    false, true, _ = roc_curve(target, score)
    axes.plot([0, 1], [0, 1], color=MUTED, linestyle="--", linewidth=1, label="chance")
    axes.plot(false, true, color=ACCENT, linewidth=2, label=f"AUC {auc(false, true):.3f}")
    axes.set(
        xlabel="false positive rate",
        ylabel="true positive rate",
        xlim=(0, 1),
        ylim=(0, 1.01),
        aspect="equal",
    )
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
