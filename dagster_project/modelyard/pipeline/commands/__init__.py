"""The commands of a model repo, one a module: `modelyard train` and its like.

The top floor: arguments, exit codes and the last word in the terminal.
"""

from modelyard.cli import Command

TRAIN = Command(
    "train",
    "Run the pipeline up to a registered model version.",
    "modelyard.pipeline.commands.train:main",
)
TUNE = Command(
    "tune",
    "Search the training settings that config.yaml names in tune:.",
    "modelyard.pipeline.commands.tune:main",
)
PREDICT = Command(
    "predict",
    "Score the months, or a file, by a registered version.",
    "modelyard.pipeline.commands.predict:main",
)
REPRODUCE = Command(
    "reproduce",
    "Build a registered version again from its commit, and compare the packages.",
    "modelyard.pipeline.commands.reproduce:main",
)
FETCH = Command(
    "fetch",
    "Bring a registered version's package back to .modelyard/packages.",
    "modelyard.pipeline.commands.fetch:main",
)
CHECK_NAME = Command(
    "check-name",
    "Refuse a model's name that would hide another Python package.",
    "modelyard.pipeline.commands.check_name:main",
)
COMMANDS = (TRAIN, TUNE, PREDICT, REPRODUCE, FETCH, CHECK_NAME)
