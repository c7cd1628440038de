"""The local platform of the delivery tests, for the walk through the release template."""

from delivery.conftest import bento_store, repo

__all__ = ["bento_store", "repo"]
