"""Where ranks are started: torchrun on this machine, or the pods of a Kubernetes Job.

Beside tracking; what runs inside of a rank is a floor below.
"""
