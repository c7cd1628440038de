"""Every reliance on private parts of BentoML, uvicorn and prometheus_client; nowhere else.

Each module says what it relies on, why, and which issue upstream could end it (as searched for
in November 2026). `versions.TRIED` has the versions that all of them were tried with; another one
ends at start. ruff keeps other packages from these parts (`SLF001`, `TID251` in pyproject.toml).
"""
