"""LitServe: `RUNTIME=torch PACKAGE=… python litserve_app.py PORT WORKERS`."""

import os
import sys
from typing import Any

import litserve
from model import VERSION, encode, load, predictions  # pyrefly: ignore[missing-import]


class Served(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.score = load(os.environ["RUNTIME"])

    def decode_request(self, request: dict[str, Any], **_: Any) -> Any:
        return encode(request["rows"])

    def predict(self, x: Any, **_: Any) -> Any:
        return self.score(*x)

    def encode_response(self, output: Any, **_: Any) -> dict[str, Any]:
        return {"predictions": predictions(output), "version": VERSION}


if __name__ == "__main__":
    server = litserve.LitServer(
        Served(api_path="/predict"),
        accelerator="cpu",
        workers_per_device=int(sys.argv[2]),
        healthcheck_path="/readyz",
    )
    server.run(
        port=int(sys.argv[1]),
        host="127.0.0.1",
        log_level="warning",
        generate_client_file=False,
        access_log=False,
    )
