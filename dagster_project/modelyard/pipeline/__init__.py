"""Data, features, training, gate and registry of a model: what a model repo's code is made of.

Importing this package imports nothing else: the ranks of a training and the pods that they
run in get no Dagster by it, and Dagster's process no torch. Each name is loaded when it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelyard.pipeline.config.settings import TrainingSettings
    from modelyard.pipeline.data.source import Source
    from modelyard.pipeline.orchestration.executor import pod
    from modelyard.pipeline.orchestration.project import Project
    from modelyard.pipeline.training.layers import Embeddings, Standardise
    from modelyard.pipeline.training.session import session as training_session

__all__ = [
    "Embeddings",
    "Project",
    "Source",
    "Standardise",
    "TrainingSettings",
    "pod",
    "training_session",
]
_PLACES = {
    "Embeddings": "training.layers:Embeddings",
    "Project": "orchestration.project:Project",
    "Source": "data.source:Source",
    "Standardise": "training.layers:Standardise",
    "TrainingSettings": "config.settings:TrainingSettings",
    "pod": "orchestration.executor:pod",
    "training_session": "training.session:session",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _PLACES[name].partition(":")
    return getattr(import_module(f"{__name__}.{module}"), attribute)
