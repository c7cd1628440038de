"""The Kubernetes side of the ports: Gateway API, Deployments, ConfigMaps, Prometheus.

Also the way in: how the workflow of a release is submitted and followed.
"""
