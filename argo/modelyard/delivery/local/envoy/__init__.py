"""A real Envoy on this machine: its process, what it is configured by, what it counts."""
