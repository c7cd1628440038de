"""What waits at the same moment is scored together; a fault stays with its own request."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from modelyard.serving.api.limits import (
    BURST_S,
    LARGE_BYTES,
    MOST_BYTES,
    PROBE_S,
    Admission,
    most_waiting,
)
from modelyard.serving.codec.decode import Inputs
from modelyard.serving.inference.microbatch import MOST_ROWS, Batcher


class Counted:
    """In place of the metrics: the rows of each batch."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def scored(self, scores: np.ndarray) -> None:
        self.batches.append(len(scores))


def inputs(*values: float) -> Inputs:
    numbers = np.array(values, dtype=np.float32).reshape(-1, 1)
    return Inputs(numbers, np.zeros((len(values), 0), dtype=np.int64), "rows", b"")


def double(numbers: np.ndarray, categories: np.ndarray) -> np.ndarray:
    if (numbers == 13).any():
        raise RuntimeError("planted")
    return numbers[:, 0] * 2


def run(*requests: Inputs, graph: Any = double, row_s: float = 0.0) -> tuple[list[Any], list[int]]:
    counted = Counted()

    async def submit() -> list[Any]:
        with ThreadPoolExecutor(1) as thread:
            batcher = Batcher(graph, row_s, thread, counted)  # pyrefly: ignore[bad-argument-type]
            futures = [batcher.submit(each) for each in requests]
            return await asyncio.gather(*futures, return_exceptions=True)

    return asyncio.run(submit()), counted.batches


def test_requests_that_wait_together_are_one_batch() -> None:
    found, batches = run(inputs(1), inputs(2, 3), inputs(4))
    assert [f.tolist() for f in found] == [[2], [4, 6], [8]] and batches == [4]


def test_a_batch_has_a_bound_and_a_large_request_is_its_own() -> None:
    large = inputs(*[1.0] * (MOST_ROWS + 1))
    found, batches = run(inputs(1), large, inputs(2), inputs(3))
    assert [len(f) for f in found] == [1, MOST_ROWS + 1, 1, 1]
    assert batches == [1, MOST_ROWS + 1, 2]


def test_scores_that_are_not_finite_fail_their_own_request() -> None:
    found, batches = run(inputs(1), inputs(2, np.inf), inputs(3))
    assert [f.tolist() for f in (found[0], found[2])] == [[2], [6]]
    assert isinstance(found[1], ValueError) and str(found[1]) == "row 1 scores inf"


def test_a_graph_that_fails_fails_its_requests_and_goes_on() -> None:
    counted = Counted()

    async def submit() -> list[Any]:
        with ThreadPoolExecutor(1) as thread:
            batcher = Batcher(double, 0.0, thread, counted)  # pyrefly: ignore[bad-argument-type]
            first = await asyncio.gather(batcher.submit(inputs(13)), return_exceptions=True)
            return [*first, await batcher.submit(inputs(5))]

    failed, scored = asyncio.run(submit())
    assert isinstance(failed, RuntimeError) and scored.tolist() == [10]


@pytest.mark.parametrize("row_s", [0.0, 1.0])
def test_a_slow_graph_runs_beside_the_loop(row_s: float) -> None:
    """While it runs, the next batch gathers."""
    threads: set[int] = set()

    def graph(numbers: np.ndarray, categories: np.ndarray) -> np.ndarray:
        threads.add(threading.get_ident())
        return double(numbers, categories)

    found, _ = run(*map(inputs, range(5)), inputs(1, 2), graph=graph, row_s=row_s)
    assert [f.tolist() for f in found] == [[0], [2], [4], [6], [8], [2, 4]]
    assert (threads == {threading.get_ident()}) == (row_s == 0)


def test_the_queue_is_bounded_by_number_and_by_bytes() -> None:
    admission = Admission(4)
    for _ in range(3):
        admission.enter(100)
    assert not admission.full(100)
    admission.enter(100)
    assert admission.full(100)
    for _ in range(4):
        admission.leave(100)
    large = Admission(1000)
    for _ in range(MOST_BYTES // LARGE_BYTES):
        assert not large.full(10 * LARGE_BYTES)
        large.enter(10 * LARGE_BYTES)
    assert large.full(1)
    assert not Admission(1).full(10 * MOST_BYTES), "alone, any finds a place"


def test_a_queue_that_stays_full_is_kept_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until nothing was refused for a while, and again and again to see whether it still is."""
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    admission = Admission(8)
    admission.shrinks = True

    def places() -> int:
        count = 0
        while not admission.full(1):
            admission.enter(1)
            count += 1
        for _ in range(count):
            admission.leave(1)
        return count

    found = []
    while now < PROBE_S + 0.3:  # refused all the time
        found.append(places())
        now += 0.05
    assert found[:3] == [8, 8, 8] and found[4] == 3 and found.count(8) < 10
    assert 8 in found[-7:], "the whole queue is tried again"
    now += BURST_S + 0.01
    assert places() == 8


def test_what_was_just_read_counts_until_the_loop_has_seen_it() -> None:
    async def read() -> tuple[bool, bool]:
        admission = Admission(2)
        for _ in range(2):
            admission.expect(100)
        full = admission.full(100)
        await asyncio.sleep(0)
        return full, admission.full(100)

    assert asyncio.run(read()) == (True, False)


def test_a_slow_graph_has_a_shorter_queue() -> None:
    assert [most_waiting(row_s) for row_s in (1e-7, 1e-4, 1.0)] == [128, 58, 16]
