"""From a Bento to live traffic: shadow, canary, promotion, and the way back.

What a model repo's own tests may import is named here, and loaded when it is asked for;
everything behind it may move.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelyard.delivery.policy import Kubernetes, Local, Release, load_release, project_name

__all__ = ["Kubernetes", "Local", "Release", "load_release", "project_name"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("modelyard.delivery.policy"), name)
