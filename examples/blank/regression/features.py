"""The model's inputs and its target: declared here once, for training and for serving.

Replace them by yours. An input is what is known at the time of the prediction; the target
becomes known afterwards.
"""

import polars as pl
from modelyard.documents import Category, Number, Signature

from .contract import KINDS

TARGET = "outcome"
CLASSES = ()


def target() -> pl.Expr:
    """The value; null while nobody knows: such a row is no training row."""
    return pl.col("outcome").cast(pl.Float32)


SIGNATURE = Signature(
    task="regression",
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
