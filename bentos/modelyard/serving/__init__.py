"""A model package behind HTTP: BentoML packages and serves it, this room does the rest.

`service` and `ModelService` are what a model repo's `bentos/service.py` is made of;
`python -m modelyard.serving.build` makes a Bento of it. Importing this package imports no
numpy, no Arrow and no runtime: the process that supervises the workers needs none.
"""

from modelyard.serving.app import ModelService, service
from modelyard.serving.rows import Prediction, Row

__all__ = ["ModelService", "Prediction", "Row", "service"]
