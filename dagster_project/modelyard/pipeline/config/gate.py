"""`gate:` of config.yaml: what the gate against the champion asks for."""

from pydantic import BaseModel, ConfigDict, Field

LEAST = 10
"""rows (of each class, for the AUC) below which a standard error means nothing"""


class GatePolicy(BaseModel):
    """`gate:` of a model repo's config.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    metric: str | None = None
    """default: the task's primary metric (`evaluation.PRIMARY`)"""
    margin: float = Field(0.005, ge=0, allow_inf_nan=False)
    """the loss that is still accepted, in the metric's own unit"""
    confidence: float = Field(0.95, ge=0.5, lt=1)
    """of the two-sided interval"""
    resamples: int = Field(1000, ge=200, le=100_000)
    slices: tuple[str, ...] = ()
    """columns of the test set, each of whose values is looked at on its own"""
    slice_margin: float = Field(0.02, ge=0, allow_inf_nan=False)
    minimum_rows: int = Field(500, ge=LEAST)
    """smaller slices are not judged"""
