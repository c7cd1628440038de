"""BentoML as its tutorial writes it: `bentoml serve bentoml_plain:Plain`."""

import os
from typing import Any

import bentoml
from model import VERSION, encode, load, predictions  # pyrefly: ignore[missing-import]


@bentoml.service(workers=int(os.environ.get("WORKERS", "1")))
class Plain:
    def __init__(self) -> None:
        self.score = load(os.environ["RUNTIME"])

    @bentoml.api
    def predict(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        return {"predictions": predictions(self.score(*encode(rows))), "version": VERSION}
