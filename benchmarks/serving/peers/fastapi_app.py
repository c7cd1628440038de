"""Bare FastAPI: `RUNTIME=torch PACKAGE=… uvicorn fastapi_app:app`."""

import os
from typing import Any

from fastapi import FastAPI
from model import SIGNATURE, VERSION, encode, load, predictions  # pyrefly: ignore[missing-import]
from pydantic import create_model

TYPES: dict[str, Any] = {"number": float, "category": str}
FIELDS: dict[str, Any] = {
    i["name"]: (TYPES[i["kind"]] | None if i["nullable"] else TYPES[i["kind"]], ...)
    for i in SIGNATURE["inputs"]
}
Row: Any = create_model("Row", **FIELDS)
Body: Any = create_model("Body", rows=(list[Row], ...))


score = load(os.environ["RUNTIME"])
app = FastAPI()


@app.get("/readyz")
async def readyz() -> None:
    pass


@app.post("/predict")
async def predict(body: Body) -> dict[str, Any]:
    numbers, categories = encode([row.model_dump() for row in body.rows])
    return {"predictions": predictions(score(numbers, categories)), "version": VERSION}
