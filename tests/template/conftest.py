"""The pipeline tests' real flights, for the worked example."""

from pipeline.conftest import sample

__all__ = ["sample"]
