"""What a person or a pipeline calls: `modelyard build` and `modelyard score`."""

from modelyard.cli import Command

BUILD = Command(
    "build",
    "Build a registered model version as a Bento.",
    "modelyard.serving.commands.build:main",
)
SCORE = Command(
    "score",
    "Score the rows of a file by a model package, as the server would.",
    "modelyard.serving.commands.score:main",
)
COMMANDS = (BUILD, SCORE)
