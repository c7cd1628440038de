"""config.yaml: each mistake is named with its line."""

from pathlib import Path

import pytest

from modelyard.documents import UserError, load_settings
from modelyard.pipeline.config.settings import Settings, TrainingSettings

GOOD = """\
data:
  months: {from: 2013-01, to: 2013-12}
split:
  train: {from: 2013-01, to: 2013-06}
  validation: {from: 2013-10, to: 2013-10}
  test: {from: 2013-11, to: 2013-12}
training:
  epochs: 5
"""


def load(folder: Path, text: str) -> Settings[TrainingSettings]:
    (folder / "config.yaml").write_text(text)
    return load_settings(folder / "config.yaml", Settings[TrainingSettings])


def test_good_settings(tmp_path: Path) -> None:
    found = load(tmp_path, GOOD)
    assert found.training.epochs == 5 and len(list(found.split.train)) == 6
    assert str(found.split.validation) == "2013-10"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("epochs: 5", "epoch: 5", r"config.yaml:8: training.epoch: Extra inputs"),
        ("epochs: 5", "epochs: many", r"config.yaml:8: training.epochs: Input should be a valid"),
        ("2013-10, to: 2013-10", "2013-6, to: 2013-10", r"config.yaml:5: split.validation.from"),
        ("to: 2013-06", "to: 2013-10", r"config.yaml:3: split: train .* without overlap"),
        ("2013-11, to: 2013-12", "2013-12, to: 2013-11", r"config.yaml:6: .*ends \(2013-11\) bef"),
        ("2013-11, to: 2013-12", "2013-11, to: 2014-01", r"split.test .* outside of data.months"),
    ],
)
def test_a_mistake_has_its_line(old: str, new: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        load(tmp_path, GOOD.replace(old, new))
