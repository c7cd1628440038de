"""Edges of the histograms."""

DURATION_S = [float(f"{0.0002 * 1.1**step:.4g}") for step in range(134)]
"""0.2 ms to a minute, for BentoML's own routes as for `/predict`: a release can prove "no more
than 1.2 times as slow" only by edges that are closer than that"""
BATCH_ROWS = [float(2**step) for step in range(14)]
