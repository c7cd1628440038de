"""What is wrong with a request, as values: its fields, and the answer that refuses it."""

from typing import NamedTuple

MOST_ERRORS = 100


class RowError(NamedTuple):
    """What is wrong with one field of one row; `field` is empty where the row itself is."""

    row: int
    field: str
    message: str


class Refusal(Exception):
    """An answer that is not 200: its status, its text, and the fields it is about."""

    def __init__(self, status: int, error: str, errors: list[RowError] | None = None) -> None:
        super().__init__(error)
        self.status = status
        self.errors = errors or []


def check_count(rows: int, most: int) -> None:
    """
    Raises:
        Refusal: there are no rows, or too many.
    """
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
