"""A model package behind HTTP: BentoML packages and serves it, this room does the rest.

`service` and `ModelService` are what a model repo's `bentos/service.py` is made of;
`python -m modelyard.serving.build` makes a Bento of it. Importing this package does
not import torch: the process that supervises the workers needs none.
"""

from modelyard.serving.app import ModelService, service
from modelyard.serving.encoding import Row
from modelyard.serving.model import Prediction

__all__ = ["ModelService", "Prediction", "Row", "service"]
