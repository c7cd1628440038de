"""From raw rows to tensors: contract, features, splits, content hashes, CSV files.

Polars and numpy; no torch, no Dagster.
"""
