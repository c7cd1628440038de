"""Is a candidate proven within its limits, or beyond them? From counts to verdicts.

What may fail and by how much is the policy's; the statistics are `modelyard.statistics`.
"""
