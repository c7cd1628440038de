"""Settings of a small search."""

from pathlib import Path

from modelyard.documents import load_settings
from modelyard.pipeline.config.settings import Settings, TrainingSettings

CONFIG = """\
data: {months: {from: 2013-01, to: 2013-03}}
split:
  train: {from: 2013-01, to: 2013-01}
  validation: {from: 2013-02, to: 2013-02}
  test: {from: 2013-03, to: 2013-03}
training: {ranks: 2, epochs: 3, batch_rows: 100, learning_rate: 0.05}
tune:
  trials: 3
  startup_trials: 1
  space:
"""


def settings(folder: Path, *space: str) -> Settings[TrainingSettings]:
    (folder / "config.yaml").write_text(CONFIG + "".join(f"    {line}\n" for line in space))
    return load_settings(folder / "config.yaml", Settings[TrainingSettings])
