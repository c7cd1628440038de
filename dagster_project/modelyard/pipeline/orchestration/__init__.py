"""What Dagster sees: assets, checks, executor, a run in this process and what it prints.

Thin shells; the work is on the floors below.
"""
