"""JSON rows and JSON columns, through the signature, to arrays and back.

There is a fast way for what fits the signature. What does not is looked at again slowly, to
say what is wrong with which field of which row.
"""

import json
from collections.abc import Callable, Collection, Iterable, Iterator
from operator import attrgetter
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from pydantic_core import from_json

from modelyard.documents import Signature
from modelyard.documents.signature import Input, Number
from modelyard.serving.codec.errors import Refusal, RowError, check_count, refuse_errors
from modelyard.serving.codec.types import Form, Row
from modelyard.serving.codec.validation import FLOAT32_MAX, Encoder

Decoded = tuple[np.ndarray, np.ndarray, Form]
"""numbers float32 [N, n], categories int64 [N, c], and the form that the rows had"""


class JsonDecoder:
    """The JSON bodies of one signature; its decoders are compiled once."""

    def __init__(self, signature: Signature, encoder: Encoder, max_rows: int) -> None:
        self._encoder = encoder
        self._max_rows = max_rows
        self._width = len(signature.inputs)
        places = {f"f{place}": given for place, given in enumerate(signature.inputs)}
        names = {place: given.name for place, given in places.items()}
        numbers = [p for p, given in places.items() if isinstance(given, Number)]
        categories = [p for p in places if p not in numbers]
        self._numbers, self._categories = _values(numbers), _values(categories)
        self._codes = [
            {value: code for code, value in enumerate(c.values, start=1)}
            for c in signature.categories
        ]
        row = _struct(places, names)
        self._rows = _decoder("rows", list[row])
        self._columns = _decoder("columns", _struct(places, names, of=list))

    def decode(self, body: bytes) -> Decoded:
        """
        Raises:
            Refusal: what is wrong with the body.
        """
        return self._decode_rows(body) or self._decode_columns(body) or self._explain(body)

    def _decode_rows(self, body: bytes) -> Decoded | None:
        try:
            rows = self._rows.decode(body).rows
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return None
        count = len(rows)
        # A key brings a colon. More of them than keys: one stands twice, or in a string.
        if not 0 < count <= self._max_rows or body.count(b":") != 1 + count * self._width:
            return None
        numbers = np.array([*map(self._numbers, rows)], dtype=np.float32)
        columns = zip(*map(self._categories, rows), strict=True)
        return numbers, self._encoded(count, columns), "rows"

    def _decode_columns(self, body: bytes) -> Decoded | None:
        try:
            columns = self._columns.decode(body).columns
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return None
        numbers, categories = self._numbers(columns), self._categories(columns)
        counts = {len(column) for column in (*numbers, *categories)}
        count = next(iter(counts))
        if len(counts) > 1 or not 0 < count <= self._max_rows:
            return None
        if body.count(b":") != 1 + self._width:
            return None
        values = np.empty((count, len(numbers)), dtype=np.float32)
        for place, column in enumerate(numbers):
            values[:, place] = np.array(column, dtype=np.float32)  # None becomes NaN
        return values, self._encoded(count, categories), "columns"

    def _encoded(self, count: int, categories: Iterable[Collection[Any]]) -> np.ndarray:
        """int64 [N, c] of columns of values."""
        codes = [
            [table.get(value, 0) for value in column]
            for table, column in zip(self._codes, categories, strict=True)
        ]
        whole = np.array(codes, dtype=np.int64).reshape(len(codes), count)
        return np.ascontiguousarray(whole.T)

    def _explain(self, body: bytes) -> Decoded:
        """Parse slowly, to say what is wrong; it may also be right, but unusual.

        Raises:
            Refusal: what is wrong.
        """
        try:
            # NaN and Infinity are let through here, to be refused with their row and field.
            content = from_json(body)
        except ValueError as error:
            raise Refusal(400, f"the body is not JSON: {error}") from None
        form, given = _form(content)
        objects = [given] if form == "columns" else [r for r in given if type(r) is dict]
        if name := _repeated_key(body, objects):
            raise Refusal(400, f"the key {name[:100]!r} stands twice in one object")
        rows = self._rows_of(given) if form == "columns" else given
        check_count(len(rows), self._max_rows)
        refuse_errors(self._encoder.errors(rows))
        return *self._encoder.encode(rows), form

    def _rows_of(self, columns: dict[str, Any]) -> list[Row]:
        """The rows of columns of this signature, lists as long as one another."""
        refuse_errors(self._encoder.wrong_names(0, columns))
        lists = {name: column for name, column in columns.items() if type(column) is list}
        refuse_errors([RowError(0, n, "must be an array") for n in columns if n not in lists])
        first, *others = lists
        length = len(lists[first])
        refuse_errors(
            [
                RowError(min(length, len(lists[n])), n, f"must have {length} values, as {first}")
                for n in others
                if len(lists[n]) != length
            ]
        )
        check_count(length, self._max_rows)
        return _transposed(lists)


def to_rows(body: bytes, form: Form) -> list[Row]:
    """The rows of a body that has been decoded before."""
    content = from_json(body)
    return content["rows"] if form == "rows" else _transposed(content["columns"])


def _form(content: Any) -> tuple[Form, Any]:
    if type(content) is dict and len(content) == 1:
        if type(content.get("rows")) is list:
            return "rows", content["rows"]
        if type(content.get("columns")) is dict:
            return "columns", content["columns"]
    wanted = 'an object with the one key "rows", a list, or "columns", an object'
    raise Refusal(400, f"the body must be {wanted}")


def _decoder(key: str, value: Any) -> Any:
    whole = msgspec.defstruct("Body", [(key, value)], forbid_unknown_fields=True, gc=False)
    return msgspec.json.Decoder(whole)


def _struct(places: dict[str, Input], names: dict[str, str], of: Any = None) -> Any:
    """A row, or with `of=list` one list a field."""
    types = {place: _type(given) for place, given in places.items()}
    fields = [(place, of[kind] if of else kind) for place, kind in types.items()]
    return msgspec.defstruct("Row", fields, rename=names, forbid_unknown_fields=True, gc=False)


def _type(given: Input) -> Any:
    """The values that an input takes, as a type that msgspec checks while it parses."""
    if isinstance(given, Number):
        low = -FLOAT32_MAX if given.minimum is None else given.minimum
        high = FLOAT32_MAX if given.maximum is None else given.maximum
        whole = 1 if given.integer else None
        kind: Any = Annotated[float, msgspec.Meta(ge=low, le=high, multiple_of=whole)]
    else:
        kind = str if given.open else Literal[given.values]  # pyrefly: ignore[invalid-literal]
    return kind | None if given.nullable else kind


def _values(places: list[str]) -> Callable[[Any], tuple[Any, ...]]:
    """`attrgetter`, which gives a tuple only of two and more."""
    if len(places) > 1:
        return attrgetter(*places)
    return lambda row: tuple(getattr(row, place) for place in places)


def _transposed(columns: dict[str, list[Any]]) -> list[Row]:
    names = list(columns)
    return [dict(zip(names, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _repeated_key(body: bytes, objects: list[dict[str, Any]]) -> str | None:
    """A key that an object of the body has twice: the parser has kept the last of them.

    With no more colons than keys there is none, and a second, slower parsing is saved.
    """
    if body.count(b":") == 1 + sum(map(len, objects)):
        return None
    return next(_repeated(body), None)


def _repeated(body: bytes) -> Iterator[str]:
    found: list[str] = []

    def look(pairs: list[tuple[str, Any]]) -> None:
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                found.append(name)
            seen.add(name)

    # Numbers stay text: what is wrong with one is said of its row and field.
    json.loads(body, object_pairs_hook=look, parse_int=str)
    yield from found
