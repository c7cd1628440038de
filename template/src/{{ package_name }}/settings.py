"""`config.yaml`, read strictly: an unknown key is an error with its line."""

from pathlib import Path
from typing import Annotated

from modelyard.documents import load_settings
from modelyard.pipeline.config.settings import Settings, TrainingSettings
from modelyard.pipeline.storage.workspace import Workspace
from pydantic import Field

workspace = Workspace(Path(__file__).parents[2])


class NetworkSettings(TrainingSettings):
    """`training:` of config.yaml: the platform's settings, and this network's own."""

    hidden: tuple[Annotated[int, Field(ge=1)], ...] = Field((128, 64), min_length=1)
    """width of each hidden layer"""
    embedding: int = Field(8, ge=1)
    """most dimensions of a category's embedding"""
    dropout: float = Field(0.1, ge=0, lt=1)


def settings() -> Settings[NetworkSettings]:
    return load_settings(workspace.root / "config.yaml", Settings[NetworkSettings])
