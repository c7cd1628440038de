"""MLflow: a run a training, its live curve, and the model registry.

Beside the launchers; nothing of it is needed in the image of the ranks.
"""
