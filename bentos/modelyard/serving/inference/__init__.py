"""A loaded model package: runtime, model, batches of what waits, and one worker's predictor.

Rows or arrays go in, predictions come out; who asked, and over what, is not known here.
"""
