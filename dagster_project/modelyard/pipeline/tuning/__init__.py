"""The search of training settings: an Optuna study, its workers and its pictures.

Beside evaluation: no trial sees the test months.
"""
