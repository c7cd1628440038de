"""What rows and predictions are, in plain Python: what a team's own code sees."""

from typing import Any, NamedTuple, NotRequired, TypedDict

Row = dict[str, Any]
"""input → number, string or None"""

Prediction = TypedDict("Prediction", {"score": float | list[float], "class": NotRequired[str]})
"""`score`: the probability of `classes[1]` (binary), of each class (multiclass), or the
value (regression). `class`: the likeliest class; a regression has none."""


class RowError(NamedTuple):
    """What is wrong with one field of one row; `field` is empty where the row itself is."""

    row: int
    field: str
    message: str
