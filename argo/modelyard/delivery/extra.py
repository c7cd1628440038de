"""What steers a release is installed alone, as `modelyard[steering]`; the rest, where it is asked for."""

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
