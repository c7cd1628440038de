"""What runs inside of the ranks, and the work folder by which they are given and give back.

Imports no Dagster; torch only in the modules of a loop.
"""
