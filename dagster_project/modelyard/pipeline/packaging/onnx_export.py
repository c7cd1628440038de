"""From `model.pt2` to `model.onnx`: the same graph for a runtime that is faster and smaller."""

import contextlib
import io
import logging
import os
import warnings
from pathlib import Path

import numpy as np

from modelyard.coding import same_scores
from modelyard.documents.package import ONNX

logger = logging.getLogger(__name__)


def write_onnx(program: Path, path: Path, numbers: np.ndarray, categories: np.ndarray) -> bool:
    """Translate an exported program, if ONNX has its operators and gives its scores.

    A package without `model.onnx` is served by torch.

    Args:
        program: `model.pt2`.
        path: the file to write; whole or not at all.
        numbers, categories: float32 [N, n] and int64 [N, c], rows to compare both on.

    Returns:
        whether it was written; the log says why not.
    """
    import torch

    exported = torch.export.load(program)
    with torch.no_grad():
        inputs = torch.from_numpy(numbers), torch.from_numpy(categories)
        expected = exported.module()(*inputs).numpy()
    try:
        with _quiet():
            translated = torch.onnx.export(exported, dynamo=True, verbose=False)
        assert translated is not None
        model = translated.model_proto.SerializeToString()
        found = _score(model, numbers, categories)
    except Exception as error:  # the exporter and the runtime raise many kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        logger.warning("no %s, torch will serve: %s", ONNX, reason)
        return False
    if not same_scores(found, expected):
        logger.warning("no %s, torch will serve: its scores are not those of model.pt2", ONNX)
        return False
    path.write_bytes(model)
    return True


def _score(model: bytes, numbers: np.ndarray, categories: np.ndarray) -> np.ndarray:
    # Since 1.29 it tells Microsoft each model's name and hashes unless it is told not to.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    # An input that the graph does not use may be missing.
    given = {"numbers": numbers, "categories": categories}
    used = {each.name: given[each.name] for each in session.get_inputs()}
    return np.asarray(session.run(None, used)[0])


@contextlib.contextmanager
def _quiet():
    """The exporter prints its progress, and warns of torchvision's operators and of its own API."""
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger("torch.onnx").setLevel(level)
