"""What BentoML was asked for holds for the model's routes, too, though they pass it by."""

from collections.abc import Callable
from pathlib import Path

import pytest
from serving.connection import outlasts

from modelyard.documents.signature import Task
from modelyard.serving.testing import serve

pytestmark = pytest.mark.xdist_group("serving")

ROW = {"distance": 1400.0, "hour": 17, "wind": 12.5, "carrier": "AA", "dest": "LAX"}
SERVICE = """
import os
from modelyard.serving import ModelService, service

class Guard:
    def __init__(self, app, word):
        assert os.environ["ARROW_DEFAULT_MEMORY_POOL"] == "system"  # ours, beside theirs
        self.app, self.word = app, os.environ.get(word, "").encode()

    async def __call__(self, scope, receive, send):
        public = scope["type"] != "http" or scope["path"].endswith("/readyz")
        if not public and dict(scope["headers"]).get(b"x-word") != self.word:
            await send({"type": "http.response.start", "status": 401, "headers": []})
            await send({"type": "http.response.body", "body": b""})
        else:
            await self.app(scope, receive, send)

@service(
    path_prefix="/v1",
    http={"cors": {"enabled": True, "access_control_allow_origins": ["http://page"]}},
    traffic={"timeout": 2.5},
    envs=[{"name": "WORD", "value": "open"}],
)
class Service(ModelService):
    async def predict(self, rows):
        import asyncio
        if rows[0]["hour"] == 13:
            await asyncio.sleep(60)
        if rows[0]["hour"] == 14:
            raise TimeoutError("somebody else's")
        return super().predict(rows)

Service.add_asgi_middleware(Guard, word="WORD")
"""


def test_a_guard_cors_a_prefix_and_a_time_limit(
    tmp_path: Path, package: Callable[[Task], Path]
) -> None:
    (tmp_path / "service.py").write_text(SERVICE)
    with serve(tmp_path / "service.py", package("binary"), path="/v1/readyz") as running:
        client = running.client
        for route in ("/v1/predict", "/v1/metrics"):
            assert client.post(route, json={"rows": [ROW]}).status_code == 401
        client.headers.update({"x-word": "open", "origin": "http://page"})
        answer = client.post("/v1/predict", json={"rows": [ROW]})
        assert answer.status_code == 200, answer.text
        assert answer.headers["access-control-allow-origin"] == "http://page"
        assert client.post("/predict", json={"rows": [ROW]}).status_code == 404
        assert client.get("/v1/model").json()["version"] == 1
        outlasts(running, "/v1/predict", ROW, 6.5, **{"x-word": "open"})
        late = client.post("/v1/predict", json={"rows": [ROW | {"hour": 13}]})
        assert late.status_code == 504 and "more than 2.5 s" in late.json()["error"]
        other = client.post("/v1/predict", json={"rows": [ROW | {"hour": 14}]})
        assert other.status_code == 500 and "somebody else's" in running.log
        counted = client.get("/v1/metrics").text
        for code in (200, 500, 504):
            assert f'endpoint="/predict",http_response_code="{code}"' in counted
