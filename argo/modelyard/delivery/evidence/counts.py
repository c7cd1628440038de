"""What the versions answered, as counts: running totals since their source started."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field


class Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Edge = Annotated[float, Field(gt=0, allow_inf_nan=True)]
ScoreEdge = Annotated[float, Field(allow_inf_nan=True)]
Count = Annotated[int, Field(ge=0)]


class Arm(Frozen):
    """Running totals of one version since the source of the counts started."""

    requests: int = Field(default=0, ge=0)
    """answered, or failed by the data plane for want of an answer"""
    failures: int = Field(default=0, ge=0)
    """of them, with an answer outside of 2xx"""
    pending: int = Field(default=0, ge=0)
    """waiting for an answer now: no running total, and 0 where nobody counts it"""
    latency: dict[Edge, Count] = {}
    """upper edge of a histogram's bucket, ms (inf: the last) → requests in it (not cumulative)"""
    scores: dict[ScoreEdge, Count] = {}
    """upper edge of a histogram's bucket (inf: the last) → scores in it (not cumulative), of live
    and mirrored requests; of several classes the likeliest one's. The same edges in both arms"""


class Slice(Frozen):
    """The pairs of one value of an input; running totals."""

    requests: int = Field(default=0, ge=0)
    """with at least one row of the slice"""
    disagreement: float = Field(default=0.0, ge=0)
    """as in `Pairs`, over the rows of the slice"""


class Disagreement(Frozen):
    """One row that the versions answered differently. None in a score: not a number."""

    request_id: str
    row: int
    inputs: dict[str, Any]
    stable: list[float | None]
    candidate: list[float | None]


class Pairs(Frozen):
    """Mirrored requests that both versions answered, compared row by row; running totals."""

    requests: int = Field(default=0, ge=0)
    disagreement: float = Field(default=0.0, ge=0)
    """sum over the requests of the share of their rows that are further apart than the policy's
    tolerance, or not a number: rows of one request are not independent, requests are"""
    slices: dict[str, Slice] = {}
    """by input and value, such as `carrier=UA`"""
    largest: tuple[Disagreement, ...] = ()
    """those furthest apart, at most 10, for people"""


class Counts(Frozen):
    """What the data plane and the prediction logs counted."""

    time: float
    """when it was counted, s since the epoch"""
    epoch: str
    """changes when the totals start from 0 again (the source was restarted)"""
    stable: Arm | None = None
    candidate: Arm | None = None
    pairs: Pairs | None = None
    """since the shadow began; None outside of it"""
    replayed: Arm = Arm()
    """of stable's totals: what the release itself sent into the shadow; no user waited for it"""
