"""The versions that this package was tried with, and an end for all others."""

from importlib import metadata

from modelyard.documents import UserError

TRIED = {
    "bentoml": ("1.4.39",),
    "uvicorn": ("0.54.0",),
    "prometheus-client": ("0.26.0",),
}
"""A version is added after `tests/serving` has passed with it."""


def check_versions() -> None:
    """
    Raises:
        UserError: another version of one of them is installed: what is relied on may be gone, or,
            worse, mean something else.
    """
    for package, tried in TRIED.items():
        found = metadata.version(package)
        if found not in tried:
            raise UserError(
                f"{package} {found} is installed; this modelyard relies on inner parts of it and "
                f"was tried with {', '.join(tried)} only: install {package}=={tried[-1]}, as "
                "modelyard's constraints.txt has it, or a modelyard that was tried with "
                f"{package} {found}"
            )
