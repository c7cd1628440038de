"""From an evaluated model to a model package: exports, model card with plots, manifest.

On top of evaluation, whose result it writes down.
"""
