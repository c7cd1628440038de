"""A connection that nobody uses for a while."""

import http.client
import json
import time

import httpx

from modelyard.serving.testing import Server


def outlasts(server: Server, path: str, row: dict, seconds: float, **headers: str) -> None:
    """Two predictions on one connection, so far apart; as a Gateway sends them, which does not
    send one again."""
    at = httpx.URL(server.client.base_url)
    connection = http.client.HTTPConnection(at.host, at.port, timeout=20)
    headers = {"content-type": "application/json", **headers}
    for pause in (seconds, 0):
        connection.request("POST", path, json.dumps({"rows": [row]}), headers)
        answer = connection.getresponse()
        assert answer.status == 200 and answer.read()
        time.sleep(pause)
    connection.close()
