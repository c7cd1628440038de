"""What was asked and answered, as Parquet files, written beside the requests, not within them."""

import io
import itertools
import logging
import operator
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.fs
import pyarrow.json
import pyarrow.parquet
from pydantic_core import from_json

from modelyard.documents import Signature, UserError
from modelyard.documents.package import SCORE
from modelyard.documents.prediction_log import (
    CLASS,
    INPUTS,
    PLACE_VARIABLE,
    REQUEST_ID,
    ROW,
    TIME,
    VERSION,
    file_name,
    hidden,
)
from modelyard.serving.codec.schemas import arrow_type
from modelyard.serving.codec.types import Form
from modelyard.serving.observability import memory

CAPACITY = 100_000
"""rows that may wait for the writer"""
CAPACITY_BYTES = 64 * 2**20
"""of the bodies that may wait"""
FILE_ROWS = 50_000
TABLE_BYTES = 2 * 2**20
"""of the bodies that become a table at once, which takes a few times their memory"""
FLUSH_S = 10.0
TABLE_S = 0.25
"""seconds between two turns of the writer, which makes a table of what has come meanwhile"""
NICENESS = 10
"""of the writer: as an equal it kept the event loop from its processor for milliseconds"""

logger = logging.getLogger("bentoml.modelyard")


class Entry(NamedTuple):
    """One answered request. Its body is parsed again by the writer, outside of Python's lock."""

    time: float
    """seconds since the epoch"""
    request_id: str
    form: Form
    body: bytes
    scores: np.ndarray
    """[N] or [N, classes]"""
    classes: list[str] | None
    """None: the likeliest, as the scores say"""


class PredictionLog:
    """A writer thread behind a bounded queue; a full queue or disk loses rows, not requests.

    What it writes, `modelyard.documents.prediction_log` says. A process has its own files, so
    that workers need no lock.
    """

    def __init__(
        self,
        place: str,
        version: int,
        signature: Signature,
        lost: Callable[[int], None],
        flush_s: float = FLUSH_S,
        capacity: int = CAPACITY,
    ) -> None:
        """
        Args:
            place: a folder, or the URL of one in object storage (s3://, gs://, abfss:// …).
            lost: is told how many rows could not be written.
            flush_s: seconds after which rows are in a file, if there are any.

        Raises:
            UserError: there is no such kind of storage.
        """
        self._files = _files(place, version)
        self._tables = _Tables(signature, version)
        self._lost = lost
        self._flush_s = flush_s
        self._capacity = capacity
        self._waiting: list[Entry] = []
        self._rows = self._bytes = 0
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._failing = False
        self._writer = threading.Thread(target=self._run, name="prediction-log", daemon=True)
        self._writer.start()

    def put(self, entry: Entry) -> None:
        """Hand one request's rows to the writer; never waits for a disk."""
        rows, size = len(entry.scores), len(entry.body)
        with self._lock:
            accepted = (
                self._rows + rows <= self._capacity
                and self._bytes + size <= CAPACITY_BYTES
                and not self._closed.is_set()
            )
            if accepted:
                self._waiting.append(entry)
                self._rows += rows
                self._bytes += size
        if not accepted:
            self._lost(rows)

    def close(self, timeout: float = 10) -> None:
        """Write what waits, for at most `timeout` seconds."""
        with self._lock:
            self._closed.set()
        self._writer.join(timeout)
        if self._writer.is_alive():
            logger.error(
                "prediction log %s: rows are lost: not written in %g s", self._files.place, timeout
            )

    def _run(self) -> None:
        _step_back()
        tables: list[pa.Table] = []
        since = time.monotonic()
        while True:
            closed = self._closed.wait(min(TABLE_S, self._flush_s))
            with self._lock:
                entries, size, self._waiting = self._waiting, self._bytes, []
                self._rows = self._bytes = 0
            if entries and not tables:
                since = time.monotonic()
            for some in _portions(entries, size):
                tables += self._attempt(some, lambda s=some: [self._tables.make(s)])
                if sum(table.num_rows for table in tables) >= FILE_ROWS:
                    self._write(tables)
            if closed or time.monotonic() - since >= self._flush_s - TABLE_S:
                self._write(tables)
            if closed:
                return

    def _write(self, tables: list[pa.Table]) -> None:
        """One file of all, which are let go."""
        if tables:
            whole = pa.concat_tables(tables)
            tables.clear()
            self._attempt(whole, lambda: self._files.write(whole))
            del whole
            memory.give_back()

    def _attempt(self, rows: Any, work: Callable[[], Any]) -> Any:
        """What `work` gives, or nothing where it fails: the rows are counted as lost."""
        if not len(rows):
            return []
        try:
            result = work()
            self._failing = False
            return result
        except Exception as error:
            count = len(rows) if isinstance(rows, pa.Table) else sum(len(e.scores) for e in rows)
            self._lost(count)
            if not self._failing:
                logger.error("prediction log %s: rows are lost: %s", self._files.place, error)
            self._failing = True
            return []


def _step_back() -> None:
    """Have this thread yield its processor to those that answer requests."""
    if sys.platform == "linux":  # where a thread has a priority of its own
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


_form, _body = operator.attrgetter("form"), operator.attrgetter("body")


def _portions(entries: list[Entry], size: int) -> Iterator[list[Entry]]:
    """The same in order, in lists of about `TABLE_BYTES`, which are let go one by one."""
    if size <= TABLE_BYTES:
        yield entries
        return
    entries.reverse()
    while entries:
        some, size = [], 0
        while entries and size < TABLE_BYTES:
            some.append(entries.pop())
            size += len(some[-1].body)
        yield some


class _Tables:
    """Tables of one signature."""

    def __init__(self, signature: Signature, version: int) -> None:
        self._version = version
        self._task, self._classes = signature.task, signature.classes
        kinds = [(given.name, arrow_type(given)) for given in signature.inputs]
        self._row = pa.struct(kinds)
        self._bodies = {
            "rows": pa.schema([("rows", pa.list_(self._row))]),
            "columns": pa.schema(
                [("columns", pa.struct([(name, pa.list_(kind)) for name, kind in kinds]))]
            ),
        }
        score = pa.list_(pa.float64()) if self._task == "multiclass" else pa.float64()
        self._scores = score

    def make(self, entries: list[Entry]) -> pa.Table:
        """The rows of all entries; requests of one form after those of another."""
        # What is done for each entry keeps the requests waiting for Python's lock: as
        # little as can be, and in C. What Arrow does for all of them does not.
        if len({entry.form for entry in entries}) > 1:
            entries = sorted(entries, key=_form)  # stable: by time within a form
        times, ids, _, _, each, told = zip(*entries, strict=True)
        lengths = np.fromiter(map(len, each), np.int64, len(each))
        scores = np.concatenate(each).astype(np.float64)
        inputs = pa.concat_arrays(
            [
                array
                for form, own in itertools.groupby(entries, _form)
                for array in self._inputs(form, [*map(_body, own)])
            ]
        )
        ends = np.cumsum(lengths)
        columns: dict[str, Any] = {
            TIME: np.repeat(times, lengths),
            REQUEST_ID: pa.array(ids).take(pa.array(np.repeat(np.arange(len(ids)), lengths))),
            VERSION: np.full(ends[-1], self._version, dtype=np.int64),
            ROW: (np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)).astype(np.int32),
            INPUTS: inputs,
            SCORE: pa.array(list(scores), self._scores) if scores.ndim > 1 else scores,
        }
        if self._classes:
            columns[CLASS] = self._class(told, ends, scores)
        return pa.table(columns)

    def _class(
        self, told: tuple[list[str] | None, ...], ends: np.ndarray, scores: np.ndarray
    ) -> pa.Array:
        codes = (scores >= 0.5) if scores.ndim == 1 else scores.argmax(axis=1)
        names = pa.array(self._classes).take(pa.array(codes.astype(np.int64)))
        if set(map(type, told)) == {type(None)}:
            return names
        listed = names.to_pylist()
        for classes, end in zip(told, ends.tolist(), strict=True):
            if classes is not None:
                listed[end - len(classes) : end] = classes
        return pa.array(listed, pa.string())

    def _inputs(self, form: Form, bodies: list[bytes]) -> list[pa.Array]:
        """Struct arrays of the rows of bodies that fit the signature."""
        if form == "arrow":
            from modelyard.serving.codec import arrow_codec

            tables = [pa.ipc.open_stream(body).read_all().select(self._names) for body in bodies]
            return [
                batch.to_struct_array().cast(self._row, safe=False)
                for table in tables
                for batch in table.cast(arrow_codec.without_views(table.schema)).to_batches()
            ]
        lines = b"\n".join(bodies)
        if lines.count(b"\n") >= len(bodies) or b"\r" in lines:  # a body may have lines of its own
            lines = b"\n".join(b.replace(b"\n", b" ").replace(b"\r", b" ") for b in bodies)
        try:
            table = pa.json.read_json(
                io.BytesIO(lines),
                read_options=pa.json.ReadOptions(use_threads=False, block_size=len(lines) + 1),
                parse_options=pa.json.ParseOptions(explicit_schema=self._bodies[form]),
            )
            read = table[form].combine_chunks()
        except pa.ArrowInvalid:  # it is stricter than JSON in some corner
            values = [from_json(body)[form] for body in bodies]
            read = pa.array(values, self._bodies[form].field(0).type)
        if form == "rows":
            return [read.flatten()]
        names = [field.name for field in self._row]
        return [
            pa.StructArray.from_arrays(
                [read.field(n).flatten() for n in names], fields=[*self._row]
            )
        ]

    @property
    def _names(self) -> list[str]:
        return [field.name for field in self._row]


class _Folder:
    """Files that appear by rename."""

    def __init__(self, place: str, version: int) -> None:
        self.place = place
        own = version, socket.gethostname(), os.getpid(), int(time.time() * 1000)
        self._names = (file_name(*own, number) for number in itertools.count())

    def name(self) -> str:
        return next(self._names)

    def write(self, table: pa.Table) -> None:
        """One new file; nothing of it is left behind if it can't be written."""
        folder, name = Path(self.place), self.name()
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / hidden(name)
        try:
            pa.parquet.write_table(table, temporary)
            temporary.rename(folder / name)
        finally:
            temporary.unlink(missing_ok=True)


class _Bucket(_Folder):
    """Objects, which appear when they are closed."""

    def __init__(self, place: str, version: int) -> None:
        # It is named in messages, which clients may see, too: without the keys in it.
        super().__init__(re.sub("//.*@", "//…@", place), version)
        try:
            self._system, self._path = pa.fs.FileSystem.from_uri(place)
        except (pa.ArrowException, OSError, ValueError) as error:
            said = str(error).replace(place, self.place)
            raise UserError(f"{PLACE_VARIABLE}={self.place}: {said}") from None

    def write(self, table: pa.Table) -> None:
        content = pa.BufferOutputStream()
        pa.parquet.write_table(table, content)
        with self._system.open_output_stream(f"{self._path.rstrip('/')}/{self.name()}") as object_:
            object_.write(content.getvalue())


def _files(place: str, version: int) -> _Folder:
    return _Bucket(place, version) if "://" in place else _Folder(place, version)
