"""Which values of a column fit a numeric input."""

import numpy as np

from modelyard.documents.signature import Number


def fits(values: np.ndarray, number: Number) -> np.ndarray:
    """Which of the values, float64 [N], fit: bool [N].

    It is what `documents.values` says of each one that is there; NaN, which stands for a
    missing value here, does not fit.
    """
    good = (values >= number.low) & (values <= number.high)  # NaN and infinities are in no range
    if number.integer:
        with np.errstate(invalid="ignore"):
            good &= values == np.floor(values)
    return good
