"""The platform's version: its commit's, by Git's tags (PEP 440).

    modelyard --version

`0.2.0` is the commit that is tagged v0.2.0; `0.2.1.dev3+g5797af433` the third one after it;
`0.0.1.dev340+g3accefe12` one in a clone without tags. What is shared in a cluster is named by it.
"""

import os
import re
from importlib import metadata
from pathlib import Path

from modelyard.documents.errors import UserError

VARIABLE = "MODELYARD_VERSION"
"""gives another version, for output that is compared"""
_UNKNOWN = "0.0.0"  # as pyproject.toml has it
_SHA = 7


def platform_version() -> str:
    """As installed; a clone that is run in place (`pip install -e`) is asked, since it moves on."""
    if given := os.environ.get(VARIABLE):
        return given
    root = Path(__file__).resolve().parents[3]
    if (root / "copier.yml").exists() and (root / ".git").exists():
        try:
            from setuptools_scm import get_version
        except ImportError:
            pass
        else:
            return get_version(root, fallback_version=_UNKNOWN)
    return metadata.version("modelyard")


def versioned_name(name: str) -> str:
    """`name-v0-2-0`: another name for each commit, and a DNS label.

    Raises:
        UserError: the version says nothing about the commit.
    """
    version = platform_version()
    if version == _UNKNOWN:
        raise UserError(
            "this modelyard was built from files without Git, so its version is unknown, and "
            f"nothing in a cluster can be named by it: install it from Git, or set {VARIABLE}"
        )
    # However many digits the one that built it took of the commit's id.
    short = re.sub(rf"([+.]g[0-9a-f]{{{_SHA}}})[0-9a-f]+", r"\1", version.lower())
    return f"{name}-v{re.sub('[^a-z0-9]+', '-', short)}"


def image_tag() -> str:
    """The version as the tag of an image, which knows no `+`."""
    return platform_version().replace("+", "-")
