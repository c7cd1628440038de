"""How a served model is asked: the routes of its server, and the headers of its answers."""

PREDICT_ROUTE = "/predict"
"""POST: rows → predictions"""
MODEL_ROUTE = "/model"
"""GET: which model this is; its key `version` is the registered version, as in each answer"""
LIVENESS_ROUTE, READINESS_ROUTE, METRICS_ROUTE = "/livez", "/readyz", "/metrics"
"""BentoML's own"""

VERSION_HEADER = "x-model-version"
"""of each answer of the model's routes: the version that gave it"""
REQUEST_ID_HEADER = "x-request-id"
"""the client's or a made one; echoed, and written to the prediction log"""
