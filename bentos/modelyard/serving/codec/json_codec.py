"""JSON rows and JSON columns, through the signature, to arrays and back.

There is a fast way for what fits the signature. What does not is looked at again slowly, to
say what is wrong with which field of which row.
"""

import json
from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
from pydantic_core import from_json

from modelyard.coding import Coder
from modelyard.documents import Signature
from modelyard.documents.signature import Input, Number
from modelyard.serving.codec.errors import Refusal, RowError, check_count, refuse_errors
from modelyard.serving.codec.schemas import json_type
from modelyard.serving.codec.types import Form, Row
from modelyard.serving.codec.validation import Validator

Decoded = tuple[np.ndarray, np.ndarray, Form]
"""numbers float32 [N, n], categories int64 [N, c], and the form that the rows had"""


class JsonDecoder:
    """The JSON bodies of one signature; its decoders are compiled once."""

    def __init__(self, signature: Signature, max_rows: int) -> None:
        self._validator, self._coder = Validator(signature), Coder(signature)
        self._max_rows = max_rows
        self._width = len(signature.inputs)
        places = {f"f{place}": given for place, given in enumerate(signature.inputs)}
        names = {place: given.name for place, given in places.items()}
        numbers = [p for p, given in places.items() if isinstance(given, Number)]
        categories = [p for p in places if p not in numbers]
        self._numbers, self._categories = _values(numbers), _values(categories)
        row = _struct(places, names)
        self._rows = _decoder("rows", list[row])
        self._columns = _decoder("columns", _struct(places, names, container=list))

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
        # A key brings a colon. More of them than keys: a duplicate key, or a colon in a string.
        if not 0 < count <= self._max_rows or body.count(b":") != 1 + count * self._width:
            return None
        numbers = self._coder.numbers([*map(self._numbers, rows)])
        columns = zip(*map(self._categories, rows), strict=True)
        return numbers, self._coder.categories(columns, count), "rows"

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
        return (
            self._coder.number_columns(numbers, count),
            self._coder.categories(categories, count),
            "columns",
        )

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
            raise Refusal(400, f"duplicate key {name[:100]!r} in one object")
        rows = self._rows_of(given) if form == "columns" else given
        check_count(len(rows), self._max_rows)
        refuse_errors(self._validator.errors(rows))
        return *self._coder.rows(rows), form

    def _rows_of(self, columns: dict[str, Any]) -> list[Row]:
        """The rows of columns of this signature, lists as long as one another."""
        refuse_errors(self._validator.wrong_names(0, columns))
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


def _struct(places: dict[str, Input], names: dict[str, str], container: Any = None) -> Any:
    """A row, or with `container=list` one list a field."""
    types = {place: json_type(given) for place, given in places.items()}
    fields = [(place, container[kind] if container else kind) for place, kind in types.items()]
    return msgspec.defstruct("Row", fields, rename=names, forbid_unknown_fields=True, gc=False)


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
