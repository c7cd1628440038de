"""The signature's rules over arrays: whether values fit, how they are coded, a sample of them.

Training, export, serving, batches and tests all code by these. numpy only; imports no room.
"""

from modelyard.coding.coder import Arrays, Coder, codes_of_places
from modelyard.coding.fits import fits
from modelyard.coding.sample import draw, draw_arrays
from modelyard.coding.scores import same_scores, score_differences

__all__ = [
    "Arrays",
    "Coder",
    "codes_of_places",
    "draw",
    "draw_arrays",
    "fits",
    "same_scores",
    "score_differences",
]
