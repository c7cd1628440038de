"""A small model server with the interfaces and the prediction log of modelyard's, and faults
planted from outside.

`$PLANTED_FAULTS/<version>.json` may hold: `never_ready`, `says` (another version), `fail_after`
(requests that go well before all fail), `fail_share`, `latency_s`, `shift` (of the score),
`refuse` (422), and `live_only`: only users' requests, not their copies in shadow, have the faults.
"""

import asyncio
import json
import math
import os
import random
import time
from pathlib import Path

import bentoml
import numpy as np
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from modelyard.documents.http import MODEL_ROUTE, PREDICT_ROUTE, REQUEST_ID_HEADER
from modelyard.documents.package import read_signature
from modelyard.documents.prediction_log import FLUSH_VARIABLE, PLACE_VARIABLE
from modelyard.serving.observability.prediction_log import Entry, PredictionLog

VERSION = int((Path(__file__).parent / "version.txt").read_text())
SIGNATURE = read_signature(Path(__file__).parent / "packages" / str(VERSION))
log: PredictionLog
served = 0


def faults():
    try:
        return json.loads((Path(os.environ["PLANTED_FAULTS"]) / f"{VERSION}.json").read_text())
    except (KeyError, FileNotFoundError):
        return {}


async def predict(request: Request):
    global served
    served += 1
    body = await request.body()
    rows = json.loads(body)["rows"]
    planted = faults()
    # Envoy marks the copies that it sends into a shadow.
    if planted.get("live_only") and request.headers["host"].partition(":")[0].endswith("-shadow"):
        planted = {}
    await asyncio.sleep(planted.get("latency_s", 0))
    if served > planted.get("fail_after", math.inf) or random.random() < planted.get(
        "fail_share", 0
    ):
        return JSONResponse({"error": "planted"}, status_code=500)
    if planted.get("refuse"):
        return JSONResponse({"error": "planted"}, status_code=422)
    scores = [row["x"] + planted.get("shift", 0) for row in rows]
    request_id = request.headers[REQUEST_ID_HEADER]
    log.put(Entry(time.time(), request_id, "rows", body, np.array(scores, dtype=float), None))
    predictions = [{"score": score, "class": "late"} for score in scores]
    return JSONResponse({"predictions": predictions, "version": VERSION})


async def model(request: Request):
    return JSONResponse({"name": "fixture", "version": faults().get("says", VERSION)})


app = Starlette(routes=[Route(PREDICT_ROUTE, predict, methods=["POST"]), Route(MODEL_ROUTE, model)])


@bentoml.service(traffic={"timeout": 10}, logging={"access": {"enabled": False}})
@bentoml.asgi_app(app)
class Fixture:
    def __init__(self) -> None:
        """In the worker only."""
        global log
        place, flush_s = os.environ[PLACE_VARIABLE], float(os.environ[FLUSH_VARIABLE])
        log = PredictionLog(place, VERSION, SIGNATURE, lost=print, flush_s=flush_s)

    async def __is_ready__(self) -> bool:
        return not faults().get("never_ready")

    @bentoml.on_shutdown
    def close(self) -> None:
        log.close()
