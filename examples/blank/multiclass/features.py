"""The model's inputs and its target: declared here once, for training and for serving.

Replace them by yours. An input is what is known at the time of the prediction; the target
becomes known afterwards.
"""

import polars as pl
from modelyard.documents import Category, Number, Signature

from .contract import KINDS

TARGET = "level"
CLASSES = ("low", "middle", "high")


def target() -> pl.Expr:
    """The index of the class; null while nobody knows: such a row is no training row."""
    outcome = pl.col("outcome")
    return (outcome > 0).cast(pl.Int8) + (outcome > 1).cast(pl.Int8)


SIGNATURE = Signature(
    task="multiclass",
    target=TARGET,
    classes=CLASSES,
    inputs=(
        Number(name="amount", minimum=0, maximum=1_000_000, nullable=True, unit="dollars"),
        Category(name="kind", values=KINDS),
    ),
    example={"amount": 120.0, "kind": "basic"},
)


def features(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Valid rows (columns of `contract.Row`) → inputs and target, one row each.

    Further columns, such as an id, are no inputs; they stay beside a prediction.
    """
    return rows.select("amount", "kind", target().alias(TARGET))
