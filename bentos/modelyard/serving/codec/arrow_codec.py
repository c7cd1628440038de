"""Arrow streams: rows in bulk, checked a column at a time. Imported when first asked for."""

import struct
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from flatbuffers.number_types import Uint8Flags
from flatbuffers.table import Table

from modelyard.coding import Arrays, Coder, codes_of_places, fits
from modelyard.documents import Signature
from modelyard.documents.signature import Category, Input, Number
from modelyard.serving.codec.errors import (
    MOST_ERRORS,
    Refusal,
    RowError,
    check_count,
    refuse_errors,
)
from modelyard.serving.codec.types import Row
from modelyard.serving.codec.validation import Validator

_RECORD_BATCH, _DICTIONARY_BATCH = 3, 2
"""MessageHeader of Arrow's format/Message.fbs"""


class ArrowDecoder:
    """Streams and tables of one signature."""

    def __init__(self, signature: Signature) -> None:
        self._signature = signature
        self._validator, self._coder = Validator(signature), Coder(signature)

    def decode(self, body: bytes, max_rows: int) -> Arrays:
        """The rows of an Arrow stream.

        Raises:
            Refusal: it is no stream, compressed, or does not fit the signature.
        """
        table = _table(body, max_rows)
        check_count(table.num_rows, max_rows)
        repeated = [n for n in table.column_names if table.column_names.count(n) > 1]
        refuse_errors([RowError(0, n[:100], "duplicate column") for n in repeated])
        refuse_errors(self._validator.wrong_names(0, table.column_names))
        refuse_errors(wrong_types(table.schema, self._signature))
        arrays, errors = self.encode(table)
        refuse_errors(sorted(errors)[:MOST_ERRORS])
        return arrays

    def encode(self, table: pa.Table, most: int = MOST_ERRORS) -> tuple[Arrays, list[RowError]]:
        """The rows of a table as arrays, and what is wrong with which of them.

        Args:
            table: has all inputs, with the right types (`wrong_types`).
            most: errors of a column that are looked for; what a bad row is coded as means nothing.
        """
        errors: list[RowError] = []

        def explain(given: Input, rows: np.ndarray) -> None:
            errors.extend(self._explain(table[given.name], given.name, rows, most))

        arrays = self._coder.columns(
            table.num_rows,
            lambda number: _number(table[number.name], number, explain),
            lambda category: _category(table[category.name], category, explain),
        )
        return arrays, errors

    def _explain(
        self, column: pa.ChunkedArray, name: str, rows: np.ndarray, most: int
    ) -> Iterator[RowError]:
        """What a row of JSON would be told, of suspicious rows."""
        for row in rows.tolist():
            if message := self._validator.check(name, column[row].as_py()):
                yield RowError(row, name, message)
                most -= 1
                if not most:
                    return


def without_views(schema: pa.Schema) -> pa.Schema:
    """The same columns without string views, as polars writes them: Arrow has no `take` and
    no cast of a dictionary for these (seen with pyarrow 25)."""
    return pa.schema([field.with_type(_without_views(field.type)) for field in schema])


def _without_views(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return pa.dictionary(kind.index_type, _without_views(kind.value_type), kind.ordered)
    if pa.types.is_large_list(kind):
        return pa.large_list(_without_views(kind.value_type))
    if pa.types.is_list(kind):
        return pa.list_(_without_views(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_without_views(field.type)) for field in kind])
    views = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}
    return views.get(kind, kind)


def wrong_types(schema: pa.Schema, signature: Signature) -> list[RowError]:
    """The inputs whose columns have another type than the signature's; all are there."""
    found = []
    for given in signature.inputs:
        kind = schema.field(given.name).type
        numeric = isinstance(given, Number)
        if not pa.types.is_null(kind) and not (_is_number if numeric else _is_text)(kind):
            wanted = "numbers" if numeric else "strings"
            found.append(RowError(0, given.name, f"must be a column of {wanted}, not {kind}"))
    return found


def to_rows(body: bytes) -> list[Row]:
    return pa.ipc.open_stream(body).read_all().to_pylist()


def write(columns: dict[str, np.ndarray | list[Any]]) -> bytes:
    """An Arrow stream of one batch."""
    batch = pa.record_batch(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def _table(body: bytes, max_rows: int) -> pa.Table:
    try:
        if _compressed(body):
            # A few bytes could stand for gigabytes.
            raise Refusal(400, "the Arrow stream is compressed: send it uncompressed")
        with pa.ipc.open_stream(body) as reader:
            table = reader.read_all()
        check_count(table.num_rows, max_rows)
        table.validate(full=True)
        plain = without_views(table.schema)
        return table if plain == table.schema else table.cast(plain)
    except (pa.ArrowException, OSError, MemoryError, ValueError, IndexError, KeyError) as error:
        raise Refusal(400, f"the body is no Arrow stream: {str(error)[:200]}") from None


def _compressed(body: bytes) -> bool:
    """Whether a batch's buffers are compressed, which only its metadata tells.

    Raises:
        ArrowException, ValueError, IndexError: this is no Arrow stream.
    """
    try:
        return any(map(_is_compressed, pa.ipc.MessageReader.open_stream(body)))
    except (struct.error, TypeError) as error:
        raise ValueError(f"its metadata can't be read: {error}") from None


def _is_compressed(message: pa.ipc.Message) -> bool:
    data = message.metadata.to_pybytes()
    table = Table(data, struct.unpack_from("<I", data)[0])
    kind = table.Offset(6)
    header = table.Offset(8)
    if not kind or not header:
        return False
    batch = Table(data, table.Indirect(table.Pos + header))
    what = table.Get(Uint8Flags, table.Pos + kind)
    if what == _DICTIONARY_BATCH:
        inner = batch.Offset(6)
        if not inner:
            return False
        batch = Table(data, batch.Indirect(batch.Pos + inner))
    elif what != _RECORD_BATCH:
        return False
    return bool(batch.Offset(10))


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(is_text(kind) for is_text in text)


def _number(
    column: pa.ChunkedArray, given: Number, explain: Callable[[Input, np.ndarray], None]
) -> np.ndarray:
    """float64 [N]; a missing one is NaN. What may not fit is explained."""
    if pa.types.is_null(column.type):
        values = np.full(len(column), np.nan)
    else:
        values = column.to_numpy().astype(np.float64, copy=False)
    known, good = ~np.isnan(values), fits(values, given)
    missing = len(values) - int(known.sum())
    if not (
        good.all() or (given.nullable and missing == column.null_count and (good | ~known).all())
    ):
        explain(given, np.flatnonzero(~good))
    return values


def _category(
    column: pa.ChunkedArray, given: Category, explain: Callable[[Input, np.ndarray], None]
) -> np.ndarray:
    """Codes, int64 [N]. What may not fit is explained."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    values = pa.array(given.values, pa.string())
    found = pc.call_function("index_in", [column.cast(pa.string())], pc.SetLookupOptions(values))
    codes = codes_of_places(given, found.fill_null(-1).to_numpy())
    unlisted = np.flatnonzero(codes == 0)
    nullable = given.nullable or not column.null_count
    if len(unlisted) and not (nullable and (given.open or column.null_count == len(unlisted))):
        explain(given, unlisted)
    return codes
