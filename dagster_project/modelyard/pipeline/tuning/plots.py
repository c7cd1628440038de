"""The pictures of a study: Optuna's own, in the words of `make tune`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelyard.documents.files import replaced
from modelyard.pipeline.config.palette import ACCENT, INK, MUTED
from modelyard.pipeline.tuning.study import VALUES, counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from optuna import Study

IMPORTANCES_FROM = 10
"""whole trials; of fewer, importances say nothing"""
WORDS = {
    "Objective Value": "validation loss",
    "Intermediate Value": "validation loss",
    "Step": "epoch",
    "Trial": "trial",
    "Importance for Objective Value": "share of the differences in validation loss",
    "Hyperparameter": "",
}


def draw(study: "Study", folder: Path, current: dict[str, Any] | None = None) -> None:
    """history.png, epochs.png, slices.png and, from ten whole trials on, importances.png.

    Args:
        current: the searched settings as config.yaml has them.
    """
    import warnings

    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from optuna.exceptions import ExperimentalWarning
    from optuna.visualization import matplotlib as plots

    wanted = {
        "history": (plots.plot_optimization_history, "The best so far, trial by trial"),
        "epochs": (plots.plot_intermediate_values, "Each trial, epoch by epoch"),
        "slices": (plots.plot_slice, "Whole trials by their settings"),
    }
    if counted(study, "COMPLETE") >= IMPORTANCES_FROM:
        wanted["importances"] = (plots.plot_param_importances, "What mattered")
    with warnings.catch_warnings(), matplotlib.rc_context():  # Optuna sets a style for good
        warnings.simplefilter("ignore", ExperimentalWarning)
        for name, (plot, title) in wanted.items():
            plot(study)
            figure = plt.gcf()
            figure.set_size_inches(10, 5)
            for axes in figure.axes:
                _in_our_words(axes)
            if name == "epochs":
                _colour(figure.axes[0], study, current)
            figure.suptitle(title, x=0.12, ha="left", color=INK)
            with replaced(folder / f"{name}.png") as new:
                figure.savefig(new, format="png", dpi=120, bbox_inches="tight")
            plt.close("all")


def _in_our_words(axes: "Axes") -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title("")
    axes.set_xlabel(WORDS.get(axes.get_xlabel(), axes.get_xlabel()))
    axes.set_ylabel(WORDS.get(axes.get_ylabel(), axes.get_ylabel()))
    if axes.get_xlabel() in ("trial", "epoch"):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if legend := axes.get_legend():
        words = ("a whole trial", "the best so far")
        for text, word in zip(legend.get_texts(), words, strict=False):
            text.set_text(word)


def _colour(axes: "Axes", study: "Study", current: dict[str, Any] | None) -> None:
    """The best trial and the configuration as it is before all others; where one was stopped."""
    if legend := axes.get_legend():
        legend.remove()
    best = study.best_trial
    drawn = [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trial.intermediate_values and trial.state.name in ("COMPLETE", "PRUNED", "RUNNING")
    ]
    for line, trial in zip(axes.lines, drawn, strict=True):
        line.set(color=MUTED, alpha=0.6, linewidth=1, marker="")
        if trial.state.name == "PRUNED":
            line.set(marker="x", markevery=[-1], label="stopped")
        if current and trial.user_attrs.get(VALUES) == current:
            line.set(color=INK, alpha=1, linewidth=1.5, label="config.yaml as it is")
        if trial.number == best.number:
            line.set(color=ACCENT, alpha=1, linewidth=2, label=f"the best: trial {best.number}")
    named = {str(line.get_label()): line for line in axes.lines}
    named = {name: line for name, line in named.items() if not name.startswith(("_", "Trial"))}
    axes.legend(named.values(), named.keys(), frameon=False)
