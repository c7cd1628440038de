"""What rows and predictions are, in plain Python, and the content types that they come in."""

from typing import Any, NamedTuple, NotRequired, TypedDict

JSON = "application/json"
ARROW = "application/vnd.apache.arrow.stream"

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
