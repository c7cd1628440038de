"""What the hand-written peers share: a package's graph, and rows as its two arrays.

Plain code, as people write it: no checks but those of the web framework's own types.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

PACKAGE = Path(os.environ["PACKAGE"])
SIGNATURE: dict[str, Any] = json.loads((PACKAGE / "signature.json").read_text())
VERSION = int(PACKAGE.name)
_NUMBERS = [i["name"] for i in SIGNATURE["inputs"] if i["kind"] == "number"]
_CODES = {
    i["name"]: {value: code for code, value in enumerate(i["values"], start=1)}
    for i in SIGNATURE["inputs"]
    if i["kind"] == "category"
}


def load(runtime: str) -> Callable[[np.ndarray, np.ndarray], Any]:
    """The graph on one thread, on `torch` or on `onnx` Runtime."""
    if runtime == "onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(PACKAGE / "model.onnx", options)
        return lambda n, c: session.run(None, {"numbers": n, "categories": c})[0]
    import torch

    torch.set_num_threads(1)
    graph = torch.export.load(PACKAGE / "model.pt2").module()

    def score(numbers: np.ndarray, categories: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return graph(torch.from_numpy(numbers), torch.from_numpy(categories)).numpy()

    return score


def encode(rows: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """float32 [N, n] and int64 [N, c]"""
    numbers = [[np.nan if row[n] is None else row[n] for n in _NUMBERS] for row in rows]
    categories = [[codes.get(row[n], 0) for n, codes in _CODES.items()] for row in rows]
    return np.array(numbers, dtype=np.float32), np.array(categories, dtype=np.int64)


def predictions(scores: np.ndarray) -> list[dict[str, Any]]:
    classes = SIGNATURE["classes"]
    return [{"score": s, "class": classes[s >= 0.5]} for s in scores.tolist()]
