"""Folders and names that rooms hand things over by: `.modelyard/` of a model repo, and Bentos."""

from dataclasses import dataclass
from pathlib import Path

STATE = Path(".modelyard")
"""a model repo's local state, below its root"""
PACKAGES = "packages"
"""model packages, a folder named by its version each: in the state, and in a Bento's source"""
SOURCE = "src"
"""what a Bento was built from, below its folder"""


@dataclass(frozen=True)
class StateFolder:
    """`.modelyard/` of a model repo, as far as more than one room uses it."""

    path: Path

    @property
    def packages(self) -> Path:
        return self.path / PACKAGES

    def package(self, version: int) -> Path:
        """The package of a registered version."""
        return self.packages / str(version)

    @property
    def releases(self) -> Path:
        """The release records of all environments that are recorded here."""
        return self.path / "releases"

    @property
    def bento_home(self) -> Path:
        """The Bento store, unless $BENTOML_HOME names another."""
        return self.path / "bentoml"


def bento_tag(model: str, version: int) -> str:
    return f"{model}:{version}"


def bentos(home: Path, model: str) -> Path:
    """The folder of a model's Bentos in a store, one named by its version each."""
    return home / "bentos" / model


def bento_package(bento: Path, version: int) -> Path:
    """The model package in a Bento."""
    return bento / SOURCE / PACKAGES / str(version)
