"""`model_card.md` of a model package, with its plots.

The sections are those of Mitchell et al., "Model Cards for Model Reporting" (FAT* 2019).
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import yaml

from modelyard.documents import Manifest, Signature, UserError
from modelyard.documents.package import CARD
from modelyard.documents.signature import Category, Number
from modelyard.pipeline.evaluation.gate import Comparison, GateResult, groups
from modelyard.pipeline.evaluation.metrics import metrics
from modelyard.pipeline.packaging.plots import PLOTS, draw_plots

if TYPE_CHECKING:
    pass


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
    plots = draw_plots(
        package / PLOTS, signature, np.asarray(target), np.asarray(score, np.float64)
    )
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
