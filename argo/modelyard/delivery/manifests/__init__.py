"""The Kubernetes objects of a release, as plain dicts and as the YAML that is committed.

Pure functions of a policy; what applies them is `modelyard.delivery.cluster`, or a person.
"""
