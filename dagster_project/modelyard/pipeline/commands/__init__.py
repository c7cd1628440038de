"""The commands of a model repo, one a module: `python -m modelyard.pipeline.commands.train`.

The top floor: arguments, exit codes and the last word in the terminal.
"""
