"""How good a model is: scores, metrics, the gate against the champion.

Beside tuning, which knows nothing of the test months.
"""
