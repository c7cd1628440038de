"""The laptop side of the ports: Envoy, `bentoml serve` processes, JSON-lines files.

Also the traffic that a laptop has no users for: replayed rows, and the shadow's past requests.
"""
