"""A training in the pods of an Indexed Job: its manifests, the client that makes and follows

them, and the entry point of a pod, which needs no Dagster.
"""
