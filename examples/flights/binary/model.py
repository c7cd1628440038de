"""The model's parts in one call, from which come the Dagster definitions.

`train.py`, where the settings stand, is what torchrun runs; `network.py` beside it has the
network, its loss and its score.
"""

from modelyard.pipeline import Project

from .contract import Flight
from .data import read
from .features import SIGNATURE, features
from .train import Settings

project = Project(
    contract=Flight,
    read=read,
    features=features,
    signature=SIGNATURE,
    settings=Settings,
)
defs = project.definitions()
