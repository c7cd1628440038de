"""A model package behind HTTP: BentoML packages and serves it, this room does the rest.

`service` and `ModelService` are what a model repo's `bentos/service.py` is made of;
`modelyard build` makes a Bento of it. Importing this package imports no numpy, no Arrow and no
runtime: the process that supervises the workers needs none. BentoML comes with the first of the
two names: a batch needs none of it, and starts in half the time.

The floors, from the top; an import goes down only (see `layers` in pyproject.toml):
`commands`, `app`, `batch` and `bento`, `inference`, `api`, `observability` and `testing`, then
`bentoml_compat`, `codec` and `package`.
"""

from typing import TYPE_CHECKING, Any

from modelyard.serving.codec.types import Prediction, Row

if TYPE_CHECKING:
    from modelyard.serving.app.service import ModelService, service

__all__ = ["ModelService", "Prediction", "Row", "service"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from modelyard.serving.app import service as module

    return getattr(module, name)
