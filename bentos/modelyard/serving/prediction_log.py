"""What was asked and answered, as JSON lines, written beside the requests, not within them."""

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

from pydantic_core import to_json

from modelyard.serving.encoding import Row

CAPACITY = 100_000
"""rows that may wait for the writer"""

logger = logging.getLogger("modelyard.serving")


class PredictionLog:
    """A writer thread behind a bounded queue; a full queue or disk loses rows, not requests.

    Each line: `time` (seconds since the epoch), `request_id`, `version`, `row`,
    `inputs`, `score`. One file a process, so that workers need no lock.
    """

    def __init__(
        self,
        folder: Path,
        version: int,
        lost: Callable[[int], None],
        capacity: int = CAPACITY,
    ) -> None:
        """`lost` is told how many rows could not be written."""
        self.path = folder / f"v{version}-{socket.gethostname()}-{os.getpid()}.jsonl"
        self._version = version
        self._lost = lost
        self._capacity = capacity
        self._waiting: list[tuple[float, str, list[Row], list[float | list[float]]]] = []
        self._rows = 0
        self._closed = False
        self._failing = False
        self._wake = threading.Condition()
        self._writer = threading.Thread(target=self._run, name="prediction-log", daemon=True)
        self._writer.start()

    def put(self, request_id: str, rows: list[Row], scores: list[float | list[float]]) -> None:
        """Hand one request's rows to the writer; never waits for a disk."""
        with self._wake:
            accepted = self._rows + len(rows) <= self._capacity and not self._closed
            if accepted:
                self._waiting.append((time.time(), request_id, rows, scores))
                self._rows += len(rows)
                self._wake.notify()
        if not accepted:
            self._lost(len(rows))

    def close(self, timeout: float = 5) -> None:
        """Write what waits, for at most `timeout` seconds."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._writer.join(timeout)

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._waiting or self._closed)
                batch, self._waiting, self._rows = self._waiting, [], 0
                if not batch:
                    return
            try:
                self._append(b"".join(self._lines(batch)))
                self._failing = False
            except Exception as error:
                self._lost(sum(len(rows) for _, _, rows, _ in batch))
                if not self._failing:
                    logger.error("prediction log %s: rows are lost: %s", self.path, error)
                self._failing = True

    def _lines(self, batch: list[tuple[float, str, list[Row], list]]) -> list[bytes]:
        return [
            to_json(
                {
                    "time": when,
                    "request_id": request_id,
                    "version": self._version,
                    "row": index,
                    "inputs": row,
                    "score": score,
                }
            )
            + b"\n"
            for when, request_id, rows, scores in batch
            for index, (row, score) in enumerate(zip(rows, scores, strict=True))
        ]

    def _append(self, lines: bytes) -> None:
        """Append all of it or nothing."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            try:
                if file.write(lines) != len(lines):
                    raise OSError("the disk is full")
            except OSError:
                file.truncate(end)
                raise
