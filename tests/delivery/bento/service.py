"""A small model server with the interfaces of modelyard's, and faults planted from outside.

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
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

VERSION = int((Path(__file__).parent / "version.txt").read_text())
served = 0


def faults():
    try:
        return json.loads((Path(os.environ["PLANTED_FAULTS"]) / f"{VERSION}.json").read_text())
    except (KeyError, FileNotFoundError):
        return {}


def log(request_id, rows, scores):
    folder = Path(os.environ["MODELYARD_PREDICTION_LOG"])
    with (folder / f"{os.getpid()}.jsonl").open("a") as file:
        for row, (inputs, score) in enumerate(zip(rows, scores, strict=True)):
            line = {"time": time.time(), "request_id": request_id, "version": VERSION}
            file.write(json.dumps(line | {"row": row, "inputs": inputs, "score": score}) + "\n")


async def predict(request: Request):
    global served
    served += 1
    rows = (await request.json())["rows"]
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
    log(request.headers["x-request-id"], rows, scores)
    predictions = [{"score": score, "class": "late"} for score in scores]
    return JSONResponse({"predictions": predictions, "version": VERSION})


async def model(request: Request):
    return JSONResponse({"name": "fixture", "version": faults().get("says", VERSION)})


app = Starlette(routes=[Route("/predict", predict, methods=["POST"]), Route("/model", model)])


@bentoml.service(traffic={"timeout": 10}, logging={"access": {"enabled": False}})
@bentoml.asgi_app(app)
class Fixture:
    async def __is_ready__(self) -> bool:
        return not faults().get("never_ready")
