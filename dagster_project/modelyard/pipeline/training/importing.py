"""Imports of large libraries, faster by a quarter."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """No search for garbage within: imports make hardly any.

    What they made is left out of later searches as well. In processes that are forked from
    this one, such a search would write to, and so copy, all memory that they share.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
