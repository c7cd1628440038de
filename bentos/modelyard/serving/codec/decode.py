"""From the body of a request to arrays: by its content type, through the signature."""

from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from modelyard.documents import Signature
from modelyard.serving.codec.errors import Refusal
from modelyard.serving.codec.json_codec import JsonDecoder, to_rows
from modelyard.serving.codec.types import ARROW, JSON, Form, Row

if TYPE_CHECKING:
    from modelyard.serving.codec.arrow_codec import ArrowDecoder


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
            from modelyard.serving.codec import arrow_codec

            return arrow_codec.to_rows(self.body)
        return to_rows(self.body, self.form)


class Parser:
    """The bodies of one signature; what decodes them is made once."""

    def __init__(self, signature: Signature, max_rows: int) -> None:
        self._signature = signature
        self._max_rows = max_rows
        self._json = JsonDecoder(signature, max_rows)

    def parse(self, kind: str, body: bytes) -> Inputs:
        """The rows of a body of this content type.

        Raises:
            Refusal: what is wrong with it.
        """
        if kind == JSON:
            return Inputs(*self._json.decode(body), body)
        if kind == ARROW:
            return Inputs(*self._arrow.decode(body, self._max_rows), "arrow", body)
        raise Refusal(415, f"content-type: {JSON} or {ARROW} is wanted, not {kind[:100]}")

    @cached_property
    def _arrow(self) -> "ArrowDecoder":
        from modelyard.serving.codec.arrow_codec import ArrowDecoder  # when it is first asked for

        return ArrowDecoder(self._signature)
