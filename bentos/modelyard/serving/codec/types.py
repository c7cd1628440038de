"""What rows and predictions are, in plain Python, and the content types that they come in."""

from typing import Any, Literal, NotRequired, TypedDict

JSON = "application/json"
ARROW = "application/vnd.apache.arrow.stream"

Row = dict[str, Any]
"""input → number, string or None"""

Form = Literal["rows", "columns", "arrow"]
"""of a request: JSON rows, JSON columns, or an Arrow stream"""

Prediction = TypedDict("Prediction", {"score": float | list[float], "class": NotRequired[str]})
"""`score`: the probability of `classes[1]` (binary), of each class (multiclass), or the
value (regression). `class`: the likeliest class; a regression has none."""
