"""One worker's model at work: from a request's body to its answer, log and metrics."""

import asyncio
import contextvars
import inspect
import math
import os
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import numpy as np
from pydantic_core import to_json

from modelyard.documents import UserError
from modelyard.documents.package import REFERENCE
from modelyard.documents.prediction_log import FLUSH_VARIABLE, PLACE_VARIABLE
from modelyard.serving.codec import arrow_codec
from modelyard.serving.codec.decode import Inputs, Parser
from modelyard.serving.codec.errors import Refusal
from modelyard.serving.codec.types import ARROW, JSON, Prediction, Row
from modelyard.serving.inference.microbatch import Batcher
from modelyard.serving.inference.model import Model
from modelyard.serving.observability import memory
from modelyard.serving.observability.metrics import Metrics
from modelyard.serving.observability.prediction_log import FLUSH_S, Entry, PredictionLog
from modelyard.serving.package import Package

THREAD_BYTES = 256 * 1024
"""a body longer than this is parsed in a thread, so that the loop can answer others"""

Code = Callable[[list[Row]], list[Prediction] | Awaitable[list[Prediction]]]


class Predictor:
    """Parser, batches, a team's code, metrics and log of one loaded package."""

    def __init__(
        self, package: Package, max_rows: int, code: Code | None, timeout_s: float
    ) -> None:
        """Load the package, and have it make its first predictions.

        Args:
            code: a team's `predict`; None where the model's scores are the answer.
            timeout_s: that `code` may take.

        Raises:
            UserError: the package is not fit to serve, or a setting is wrong.
        """
        memory.keep_pandas_out()
        signature = package.signature
        self.model = Model(package.path)
        self.metrics = Metrics(
            package.manifest.name, package.version, signature, package.path / REFERENCE
        )
        self._version = package.version
        self._parser = Parser(signature, max_rows)
        self._code, self._timeout_s = code, timeout_s
        # One thread: a team's code that is not async need not be thread-safe.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="predict")
        self.row_s = _seconds_a_row(self.model)
        self._batcher = Batcher(self.model.graph, self.row_s, self._thread, self.metrics)
        place = os.environ.get(PLACE_VARIABLE)
        self._log = (
            PredictionLog(place, package.version, signature, self.metrics.lost, _flush_s())
            if place
            else None
        )

    async def answer(self, kind: str, body: bytes, request_id: str) -> tuple[str, bytes]:
        """Content type and body of the answer to a body of this content type.

        Raises:
            Refusal: the request does not fit the signature.
        """
        if len(body) <= THREAD_BYTES:
            inputs = self._parser.parse(kind, body)
        else:
            inputs = await self._in_thread(self._parser.parse, kind, body)
        if self._code:
            return await self._answer_with_code(self._code, inputs, request_id)
        scores = await self._batcher.submit(inputs)
        self._put(request_id, inputs, scores, None)
        if inputs.form == "rows":
            return self._encoded(inputs, self.model.predictions(scores))
        return self._encoded(inputs, self.model.columns(scores))

    async def close(self) -> None:
        self._thread.shutdown()
        if self._log:
            await asyncio.to_thread(self._log.close)

    async def _answer_with_code(
        self, code: Code, inputs: Inputs, request_id: str
    ) -> tuple[str, bytes]:
        rows = inputs.rows()
        limit = asyncio.timeout(self._timeout_s)
        try:
            async with limit:
                if inspect.iscoroutinefunction(code):
                    predictions = await code(rows)
                else:
                    predictions = await self._in_thread(code, rows)
                    if inspect.isawaitable(predictions):
                        predictions = await predictions
        except TimeoutError:
            if not limit.expired():
                raise
            raise Refusal(504, f"predict took more than {self._timeout_s:g} s") from None
        scores = _scores(predictions, len(inputs))
        self.metrics.predicted(predictions)
        classes = [p["class"] for p in predictions if "class" in p]
        self._put(request_id, inputs, np.array(scores), classes or None)
        if inputs.form == "rows":
            return self._encoded(inputs, predictions)
        columns = {name: [p.get(name) for p in predictions] for name in predictions[0]}
        return self._encoded(inputs, columns)

    async def _in_thread(self, work: Callable[..., Any], *given: Any) -> Any:
        context = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, context.run, work, *given)

    def _put(
        self, request_id: str, inputs: Inputs, scores: np.ndarray, classes: list[str] | None
    ) -> None:
        self.metrics.asked(request_id, scores)
        if self._log:
            entry = Entry(time.time(), request_id, inputs.form, inputs.body, scores, classes)
            self._log.put(entry)

    def _encoded(self, inputs: Inputs, told: Any) -> tuple[str, bytes]:
        """The answer has the form of the request."""
        if inputs.form == "arrow":
            return ARROW, arrow_codec.write(told)
        name = "predictions" if inputs.form == "rows" else "columns"
        answer = {name: told, "version": self._version}
        try:
            return JSON, msgspec.json.encode(answer)
        except TypeError:  # a team's predictions may hold what only pydantic can write
            return JSON, to_json(answer)


def _scores(predictions: list[Prediction], rows: int) -> list[float | list[float]]:
    """The scores, if there is a finite one for each row."""
    if len(predictions) != rows:
        raise ValueError(f"predict gave {len(predictions)} predictions for {rows} rows")
    scores = [p["score"] for p in predictions]
    for row, score in enumerate(scores):
        if not all(map(math.isfinite, score if isinstance(score, list) else [score])):
            raise ValueError(f"row {row} scores {score}")
    return scores


def _seconds_a_row(model: Model, rows: int = 512) -> float:
    """What the graph takes for one of many rows, at best of a few; it is warm afterwards."""
    signature = model.signature
    numbers = np.zeros((rows, len(signature.numbers)), dtype=np.float32)
    categories = np.zeros((rows, len(signature.categories)), dtype=np.int64)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        model.graph(numbers, categories)
        seconds.append(time.perf_counter() - start)
    return min(seconds) / rows


def _flush_s() -> float:
    given = os.environ.get(FLUSH_VARIABLE, str(FLUSH_S))
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise UserError(f"{FLUSH_VARIABLE}={given}: must be seconds above 0")
    return seconds
