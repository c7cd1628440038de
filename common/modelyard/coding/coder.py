"""Values as the graph's two tensors: the code of the signature."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from modelyard.documents import Signature
from modelyard.documents.signature import Category, Number

Arrays = tuple[np.ndarray, np.ndarray]
"""numbers float32 [N, n] and categories int64 [N, c], in the order of the signature"""


class Coder:
    """Codes values that fit one signature; its tables are made once.

    A missing number is NaN. The code of a category is that of `Category.codes`; 0 is a missing
    value, and one that is not listed.
    """

    def __init__(self, signature: Signature) -> None:
        self._numbers = signature.numbers
        self._categories = signature.categories
        self._codes = [category.codes for category in self._categories]

    def rows(self, rows: Sequence[dict[str, Any]]) -> Arrays:
        """Rows of plain values, as JSON has them."""
        numbers = [[row[given.name] for given in self._numbers] for row in rows]
        categories = [[row[given.name] for row in rows] for given in self._categories]
        return self.numbers(numbers), self.categories(categories, len(rows))

    def columns(
        self,
        rows: int,
        values: Callable[[Number], np.ndarray],
        codes: Callable[[Category], np.ndarray],
    ) -> Arrays:
        """Columns of any library.

        Args:
            values: numeric input → its values [N], NaN where it is missing.
            codes: category → its codes [N], by `Category.codes` or `codes_of_places`.
        """
        numbers = np.empty((rows, len(self._numbers)), dtype=np.float32)
        for place, number in enumerate(self._numbers):
            with np.errstate(over="ignore"):  # such a value does not fit, and is refused
                numbers[:, place] = values(number)
        categories = np.empty((rows, len(self._categories)), dtype=np.int64)
        for place, category in enumerate(self._categories):
            categories[:, place] = codes(category)
        return numbers, categories

    def numbers(self, rows: Sequence[Sequence[float | None]]) -> np.ndarray:
        """float32 [N, n] of rows of the numeric inputs; None becomes NaN."""
        return np.array(rows, dtype=np.float32).reshape(len(rows), len(self._numbers))

    def number_columns(self, columns: Sequence[Sequence[float | None]], rows: int) -> np.ndarray:
        """float32 [N, n] of columns of the numeric inputs; None becomes NaN."""
        numbers = np.empty((rows, len(columns)), dtype=np.float32)
        for place, column in enumerate(columns):
            numbers[:, place] = np.array(column, dtype=np.float32)
        return numbers

    def categories(self, columns: Iterable[Iterable[str | None]], rows: int) -> np.ndarray:
        """int64 [N, c] of columns of the categories."""
        codes = [
            [table.get(value, 0) for value in column]
            for table, column in zip(self._codes, columns, strict=True)
        ]
        whole = np.array(codes, dtype=np.int64).reshape(len(codes), rows)
        return np.ascontiguousarray(whole.T)


def codes_of_places(category: Category, places: np.ndarray) -> np.ndarray:
    """Codes [N] of places in `category.values` [N], -1 for a value that is not there."""
    return np.array([*category.codes.values(), 0], dtype=np.int64)[places]
