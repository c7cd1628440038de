"""From the body of a request to arrays, through the signature.

Three forms: JSON rows, JSON columns, and an Arrow stream. Each has a fast way for what
fits the signature. What does not is looked at again slowly, to say what is wrong with
which field of which row.
"""

import json
from collections.abc import Callable, Collection, Iterable, Iterator
from operator import attrgetter
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import numpy as np
from pydantic_core import from_json

from modelyard.documents import Signature
from modelyard.documents.signature import Input, Number
from modelyard.serving.encoding import FLOAT32_MAX, MOST_ERRORS, Encoder
from modelyard.serving.rows import ARROW, JSON, Row, RowError

Form = Literal["rows", "columns", "arrow"]


class Refusal(Exception):
    """An answer that is not 200: its status, its text, and the fields it is about."""

    def __init__(self, status: int, error: str, errors: list[RowError] | None = None) -> None:
        super().__init__(error)
        self.status = status
        self.errors = errors or []


class Inputs(NamedTuple):
    """The rows of one request, which fit the signature."""

    numbers: np.ndarray
    """float32 [N, n]"""
    categories: np.ndarray
    """int64 [N, c]"""
    form: Form
    body: bytes

    def __len__(self) -> int:
        return len(self.numbers)

    def rows(self) -> list[Row]:
        if self.form == "arrow":
            from modelyard.serving.arrow import to_rows

            return to_rows(self.body)
        content = from_json(self.body)
        return content["rows"] if self.form == "rows" else _transposed(content["columns"])


class Parser:
    """The bodies of one signature; its decoders are compiled once."""

    def __init__(self, signature: Signature, max_rows: int) -> None:
        self.encoder = Encoder(signature)
        self.max_rows = max_rows
        self._signature = signature
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

    def parse(self, kind: str, body: bytes) -> Inputs:
        """The rows of a body of this content type.

        Raises:
            Refusal: what is wrong with it.
        """
        if kind == JSON:
            return self._parse_rows(body) or self._parse_columns(body) or self._explain(body)
        if kind == ARROW:
            from modelyard.serving.arrow import read

            return Inputs(*read(body, self._signature, self.encoder, self.max_rows), "arrow", body)
        raise Refusal(415, f"content-type: {JSON} or {ARROW} is wanted, not {kind[:100]}")

    def _parse_rows(self, body: bytes) -> Inputs | None:
        try:
            rows = self._rows.decode(body).rows
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return None
        count = len(rows)
        # A key brings a colon. More of them than keys: one stands twice, or in a string.
        if not 0 < count <= self.max_rows or body.count(b":") != 1 + count * self._width:
            return None
        numbers = np.array([*map(self._numbers, rows)], dtype=np.float32)
        columns = zip(*map(self._categories, rows), strict=True)
        return Inputs(numbers, self._encoded(count, columns), "rows", body)

    def _parse_columns(self, body: bytes) -> Inputs | None:
        try:
            columns = self._columns.decode(body).columns
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return None
        numbers, categories = self._numbers(columns), self._categories(columns)
        counts = {len(column) for column in (*numbers, *categories)}
        count = next(iter(counts))
        if len(counts) > 1 or not 0 < count <= self.max_rows:
            return None
        if body.count(b":") != 1 + self._width:
            return None
        values = np.empty((count, len(numbers)), dtype=np.float32)
        for place, column in enumerate(numbers):
            values[:, place] = np.array(column, dtype=np.float32)  # None becomes NaN
        return Inputs(values, self._encoded(count, categories), "columns", body)

    def _encoded(self, count: int, categories: Iterable[Collection[Any]]) -> np.ndarray:
        """int64 [N, c] of columns of values."""
        codes = [
            [table.get(value, 0) for value in column]
            for table, column in zip(self._codes, categories, strict=True)
        ]
        whole = np.array(codes, dtype=np.int64).reshape(len(codes), count)
        return np.ascontiguousarray(whole.T)

    def _explain(self, body: bytes) -> Inputs:
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
        check_count(len(rows), self.max_rows)
        refuse_errors(self.encoder.errors(rows))
        return Inputs(*self.encoder.encode(rows), form, body)

    def _rows_of(self, columns: dict[str, Any]) -> list[Row]:
        """The rows of columns of this signature, lists as long as one another."""
        refuse_errors(self.encoder.wrong_names(0, columns))
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
        check_count(length, self.max_rows)
        return _transposed(lists)


def _form(content: Any) -> tuple[Form, Any]:
    if type(content) is dict and len(content) == 1:
        if type(content.get("rows")) is list:
            return "rows", content["rows"]
        if type(content.get("columns")) is dict:
            return "columns", content["columns"]
    wanted = 'an object with the one key "rows", a list, or "columns", an object'
    raise Refusal(400, f"the body must be {wanted}")


def check_count(rows: int, most: int) -> None:
    if not rows:
        raise Refusal(422, "no rows: send at least one")
    if rows > most:
        raise Refusal(413, f"{rows} rows: send at most {most} in one request")


def refuse_errors(errors: list[RowError]) -> None:
    """
    Raises:
        Refusal: there are errors.
    """
    if errors:
        row, field, message = errors[0]
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        text = f"row {row}: {field}{': ' if field else ''}{message}{more}"
        raise Refusal(422, text, errors[:MOST_ERRORS])


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
