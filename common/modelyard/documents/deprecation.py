"""What goes is told for one minor version before: with the file and line that use it."""

import inspect
import warnings
from pathlib import Path


class PlatformDeprecation(FutureWarning):
    """Shown by default, unlike DeprecationWarning: a team's code runs inside of the platform's."""


def deprecated(
    what: str, instead: str, gone_in: str, place: tuple[Path | str, int] | None = None
) -> None:
    """Warn about a use of something that the next minor version no longer has.

    Args:
        what: is deprecated, as whoever uses it calls it: "Run.report", "training.patience".
        instead: what to write, as a whole clause: "call progress.validated(loss)".
        gone_in: the version that no longer has it, "0.4.0".
        place: file and line of the use; None: the nearest caller outside of modelyard.
    """
    file, line = place or _caller()
    warnings.warn_explicit(
        f"{what} is deprecated and goes in modelyard {gone_in}: {instead}",
        PlatformDeprecation,
        str(file),
        line,
    )


def _caller() -> tuple[str, int]:
    called = inspect.stack(context=0)
    outside = (
        f for f in called if f.frame.f_globals.get("__name__", "").split(".")[0] != "modelyard"
    )
    found = next(outside, called[-1])
    return found.filename, found.lineno
