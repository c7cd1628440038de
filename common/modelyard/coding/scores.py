"""Whether scores of one model by two runtimes are the same."""

import numpy as np

from modelyard.documents.package import SCORE_TOLERANCE


def score_differences(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Absolute up to 1 and relative above; of the shape of both, NaN for what is no number."""
    return np.abs(found - expected) / np.maximum(1, np.abs(expected))


def same_scores(found: np.ndarray, expected: np.ndarray) -> bool:
    """Whether they have one shape, and all are within `SCORE_TOLERANCE`."""
    if found.shape != expected.shape:
        return False
    return bool((score_differences(found, expected) <= SCORE_TOLERANCE).all())
