"""What a row is. A row that breaks this goes to quarantine, with the reason.

Replace these columns by those of your data: of each, the type, the range or the values, and
whether it may be missing.
"""

import pandera.polars as pa

KINDS = ("basic", "plus")


class Row(pa.DataFrameModel):
    """One row of the source, with what is known once its outcome is."""

    amount: float = pa.Field(ge=0, le=1_000_000, nullable=True)
    kind: str = pa.Field(isin=KINDS)
    outcome: float = pa.Field(nullable=True)
