"""`config.yaml` of a model repo, block by block, read strictly, and its edit by the search.

Pydantic only: everything above it may import it.
"""
