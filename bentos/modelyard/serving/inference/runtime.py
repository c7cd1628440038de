"""A package's graph as a function of arrays, on the runtime that is fastest for it.

ONNX Runtime where the package has `model.onnx`: measured a tenth of the time that the
exported torch program takes for one row, and a tenth of torch's size (see
docs/decisions/0031). Else torch.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from modelyard.documents import UserError
from modelyard.documents.package import MODEL, ONNX

Graph = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(numbers float32 [N, n], categories int64 [N, c]) → score float32 [N] or [N, classes]"""


def runtime_of(package: Path) -> str:
    """The distribution that serves this package: `onnxruntime` or `torch`."""
    return "onnxruntime" if (package / ONNX).is_file() else "torch"


def load_graph(package: Path) -> Graph:
    """The graph on one CPU thread: more workers, not more threads.

    Raises:
        UserError: the runtime can't load it.
    """
    name = runtime_of(package)
    file, load = (ONNX, _onnx) if name == "onnxruntime" else (MODEL, _torch)
    try:
        return load(package / file)
    except ImportError:
        raise UserError(
            f"model package {package}: {file} needs {name}, which is not installed"
        ) from None
    except Exception as error:  # the runtimes raise many kinds
        raise UserError(f"model package {package}: {name} can't load {file}: {error}") from error


def _onnx(path: Path) -> Graph:
    # Since 1.29 it tells Microsoft each model's name and hashes unless it is told not to.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    outputs = [session.get_outputs()[0].name]
    # An input that the graph does not use may be missing from it.
    used = {given.name for given in session.get_inputs()}

    def score(numbers: np.ndarray, categories: np.ndarray) -> Any:
        given = {"numbers": numbers, "categories": categories}
        return session.run(outputs, given if used == given.keys() else _only(used, given))[0]

    return score


def _only(names: set[str], given: dict[str, Any]) -> dict[str, Any]:
    return {name: given[name] for name in names}


def _torch(path: Path) -> Graph:
    import torch

    torch.set_num_threads(1)
    graph = torch.export.load(path).module()

    def score(numbers: np.ndarray, categories: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return graph(torch.from_numpy(numbers), torch.from_numpy(categories)).numpy()

    return score
