"""Batches of what waits at the same moment: nothing is held back to wait for more."""

import asyncio
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from modelyard.serving.codec.decode import Inputs
from modelyard.serving.inference.runtime import Graph
from modelyard.serving.observability.metrics import Metrics

MOST_ROWS = 4096
"""in one batch; a request with more is a batch of its own"""
LOOP_S = 0.001
"""a batch that takes longer is scored in a thread: meanwhile the loop reads, answers, refuses"""

Scores = np.ndarray


class Batcher:
    """Scores of requests, in their order.

    A request that comes alone is scored at once. While a batch is being scored, others
    gather; they are the next batch.
    """

    def __init__(self, graph: Graph, row_s: float, thread: ThreadPoolExecutor, metrics: Metrics):
        """
        Args:
            row_s: seconds that the graph takes for one of many rows.
            thread: one thread for the batches that are too long for the loop.
        """
        self._graph = graph
        self._loop_rows = max(1, int(LOOP_S / max(row_s, 1e-9)))
        self._thread = thread
        self._metrics = metrics
        self._waiting: deque[tuple[Inputs, asyncio.Future[Scores]]] = deque()
        self._going = False

    def submit(self, inputs: Inputs) -> "asyncio.Future[Scores]":
        """The scores to come. Their failure is an exception."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Scores] = loop.create_future()
        self._waiting.append((inputs, future))
        if not self._going:
            self._going = True
            # After the requests that have been read already, which come along.
            loop.call_soon(self._next)
        return future

    def _next(self) -> None:
        if not self._waiting:
            self._going = False
            return
        batch, rows = [], 0
        while self._waiting and (not batch or rows + len(self._waiting[0][0]) <= MOST_ROWS):
            batch.append(self._waiting.popleft())
            rows += len(batch[-1][0])
        loop = asyncio.get_running_loop()
        if rows <= self._loop_rows:
            self._answer(batch, self._score(batch))
            loop.call_soon(self._next)
            return
        scored = loop.run_in_executor(self._thread, self._score, batch)
        scored.add_done_callback(lambda done: (self._answer(batch, done.result()), self._next()))

    def _score(self, batch: list[Any]) -> Scores | Exception:
        try:
            if len(batch) == 1:
                return self._graph(batch[0][0].numbers, batch[0][0].categories)
            return self._graph(
                np.concatenate([inputs.numbers for inputs, _ in batch]),
                np.concatenate([inputs.categories for inputs, _ in batch]),
            )
        except Exception as error:
            return error

    def _answer(self, batch: list[Any], scores: Scores | Exception) -> None:
        if isinstance(scores, Exception):
            for _, future in batch:
                if not future.done():
                    future.set_exception(scores)
            return
        finite = bool(np.isfinite(scores).all())
        if finite:
            self._metrics.scored(scores)
        start = 0
        for inputs, future in batch:
            own = scores[start : start + len(inputs)]
            start += len(inputs)
            if future.done():
                continue
            if not finite and (bad := _not_finite(own)) is not None:
                future.set_exception(ValueError(f"row {bad} scores {own[bad]}"))
            else:
                future.set_result(own)


def _not_finite(scores: Scores) -> int | None:
    bad = np.flatnonzero(~np.isfinite(scores).reshape(len(scores), -1).all(axis=1))
    return int(bad[0]) if len(bad) else None
