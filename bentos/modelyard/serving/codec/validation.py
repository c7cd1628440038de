"""What is wrong with the rows of a request; of their values, `documents.values` says it."""

from collections.abc import Collection
from typing import Any

from modelyard.documents import Signature
from modelyard.documents.values import checker, kind_of
from modelyard.serving.codec.errors import MOST_ERRORS, RowError


class Validator:
    """The checks of one signature, compiled once."""

    def __init__(self, signature: Signature) -> None:
        self._checks = {i.name: checker(i) for i in signature.inputs}

    def errors(self, rows: list[Any]) -> list[RowError]:
        """What keeps these rows from being scored, at most `MOST_ERRORS`; empty if nothing does."""
        errors: list[RowError] = []
        for index, row in enumerate(rows):
            if type(row) is not dict:
                errors.append(RowError(index, "", f"must be an object, not {kind_of(row)}"))
            else:
                if row.keys() != self._checks.keys():
                    errors += self.wrong_names(index, row)
                for name, check in self._checks.items():
                    if name in row and (message := check(row[name])):
                        errors.append(RowError(index, name, message))
            if len(errors) >= MOST_ERRORS:
                return errors[:MOST_ERRORS]
        return errors

    def check(self, name: str, value: Any) -> str | None:
        """What is wrong with a value of this input, if anything is."""
        return self._checks[name](value)

    def wrong_names(self, index: int, row: Collection[str]) -> list[RowError]:
        missing = [name for name in self._checks if name not in row]
        unknown = [name for name in row if name not in self._checks]
        return [
            *(RowError(index, n, "is missing (send null if it is not known)") for n in missing),
            *(RowError(index, n[:100], "is not an input of this model") for n in unknown),
        ]
