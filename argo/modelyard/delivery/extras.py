"""What is not in `modelyard[steering]`, by which a release is steered, may be missing."""

from collections.abc import Iterator
from contextlib import contextmanager

from modelyard.documents import UserError


@contextmanager
def installed() -> Iterator[None]:
    """Raises: UserError: a package is missing, with what to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "modelyard"):
            raise
        raise UserError(
            f"this needs {package}, which is not installed: pip install 'modelyard[delivery]'"
        ) from None
