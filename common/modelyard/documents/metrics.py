"""What a server's metrics are called: the names and labels by which a release counts.

Of a counter Prometheus shows `<name>_total`, of a histogram `<name>_bucket` with `le`.
"""

NAMESPACE = "bentoml_service"
"""of BentoML's own metrics, among which those of `/predict` are counted"""
REQUESTS = f"{NAMESPACE}_request"
"""counter of answered requests, by `ENDPOINT` and `STATUS`"""
DURATION = f"{NAMESPACE}_request_duration_seconds"
"""histogram of their seconds, by the same labels"""
ENDPOINT = "endpoint"
"""label: the route's path"""
STATUS = "http_response_code"
"""label: the answer's status"""

REQUEST_SCORE = "modelyard_request_score"
"""histogram of the score of one row of each request, see `prediction_log.sampled_row`"""
SCORE_LEVELS = tuple(round(0.05 * step, 2) for step in range(1, 21))
"""by which scores are cut into twenty: the upper edges of a probability's buckets; of a
regression's they are these quantiles of the scores in the package's reference"""
