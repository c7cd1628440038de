"""Where the rows come from."""

import polars as pl
from modelyard.documents import UserError
from modelyard.pipeline import Source


def read(month: str, source: Source) -> pl.DataFrame:
    """All rows of one month (YYYY-MM) as they come: columns may still be text.

    Replace this by your own: a query, a table, or a CSV file in `data.source` of config.yaml:

        rows = source.csv("sales", ["day", "amount", "kind", "outcome"])
        return source.of_month(rows, pl.col("day").str.to_date(strict=False), month)

    A row whose day cannot be read has to come with some month, to be quarantined there;
    `of_month` gives it with the first.
    """
    raise UserError(
        "this model is still blank. Fill in, in this order:\n"
        f"  src/{__package__}/contract.py   what a row is\n"
        f"  src/{__package__}/features.py   the model's inputs and its target\n"
        f"  src/{__package__}/data.py       where the rows come from: read()\n"
        "and the months in config.yaml. Then run `make train` again"
    )
