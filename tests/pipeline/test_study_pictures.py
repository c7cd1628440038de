"""Progress and pictures of a study in which trials were stopped, interrupted, and are under way."""

from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from modelyard.pipeline.tuning.plots import _colour, _in_our_words, draw
from modelyard.pipeline.tuning.search import StudyProgress
from modelyard.pipeline.tuning.study import VALUES

SPACE: dict[str, optuna.distributions.BaseDistribution] = {
    "dropout": optuna.distributions.FloatDistribution(0, 1)
}


@pytest.fixture
def study() -> optuna.Study:
    """Ten whole trials, and one that was stopped, one interrupted, one without an epoch."""
    made = optuna.create_study()
    for number in range(10):
        made.add_trial(trial(TrialState.COMPLETE, number / 10, {1: 0.9, 2: number / 10}))
    made.add_trial(trial(TrialState.PRUNED, None, {1: 1.5}))
    made.add_trial(trial(TrialState.FAIL, None, {1: 1.6}))
    made.add_trial(trial(TrialState.PRUNED, None, {}))
    return made


def trial(
    state: TrialState, value: float | None, epochs: dict[int, float]
) -> optuna.trial.FrozenTrial:
    dropout = value or 0.99
    return create_trial(
        state=state, value=value, intermediate_values=epochs, params={"dropout": dropout},
        distributions=SPACE, user_attrs={VALUES: {"dropout": dropout}},
    )  # fmt: skip


def test_all_pictures(study: optuna.Study, tmp_path: Path) -> None:
    import matplotlib

    before = matplotlib.rcParams["axes.facecolor"]
    draw(study, tmp_path, {"dropout": 0.5})
    assert {path.stem for path in tmp_path.iterdir()} == {
        "history", "epochs", "slices", "importances",
    }  # fmt: skip
    assert matplotlib.rcParams["axes.facecolor"] == before


def test_the_best_and_what_is_stand_out(study: optuna.Study) -> None:
    axes = optuna.visualization.matplotlib.plot_intermediate_values(study)
    _in_our_words(axes)
    _colour(axes, study, {"dropout": 0.5})
    legend = axes.get_legend()
    assert legend is not None and sorted(text.get_text() for text in legend.get_texts()) == [
        "config.yaml as it is", "stopped", "the best: trial 0",
    ]  # fmt: skip
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "validation loss")
    (best,) = (line for line in axes.lines if line.get_label() == "the best: trial 0")
    assert best.get_linewidth() == max(line.get_linewidth() for line in axes.lines)


def test_progress_before_any_trial_was_whole(capsys: pytest.CaptureFixture[str]) -> None:
    study = optuna.create_study()
    progress = StudyProgress(3, study)
    study.add_trial(trial(TrialState.PRUNED, None, {1: 1.5}))
    progress.look()
    study.add_trial(trial(TrialState.COMPLETE, 0.5, {1: 0.5}))
    progress.look()
    progress.look()
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("  1 of 3 trials done; ")
    assert second.startswith("  2 of 3 trials done, the best 0.5000 in trial 1; ")
