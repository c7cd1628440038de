"""Which model package a service serves: what can be known of it without loading it."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from modelyard.documents import Manifest, Signature, UserError
from modelyard.documents.layout import PACKAGES, STATE, StateFolder
from modelyard.documents.package import MANIFEST, read_signature


@dataclass(frozen=True)
class Package:
    """A package folder; its version is the folder's name, 0 where that is no number."""

    path: Path
    id: str
    """SHA-256 of the manifest, which names all files with theirs"""
    version: int
    manifest: Manifest
    signature: Signature


def find_package(service_folder: Path) -> Package:
    """The package that `service.py` in this folder serves.

    `$MODELYARD_PACKAGE` if it is set; else, in a Bento, the one in `packages/` beside
    `service.py`; else, in a model repo, the newest registered version.

    Raises:
        UserError: there is none, or its documents can't be read.
    """
    if named := os.environ.get("MODELYARD_PACKAGE"):
        return read_package(Path(named))
    packed = service_folder / PACKAGES
    registered = StateFolder(service_folder.parent / STATE).packages
    return read_package(newest(packed if packed.is_dir() else registered))


def versions(packages: Path) -> list[int]:
    """The versions in a folder of packages, ascending."""
    found = packages.iterdir() if packages.is_dir() else []
    return sorted(int(p.name) for p in found if p.is_dir() and p.name.isdecimal())


def newest(packages: Path) -> Path:
    known = versions(packages)
    if not known:
        raise UserError(
            f"no model package in {packages}: no version is registered yet; run `make train`"
        )
    return packages / str(known[-1])


def read_package(path: Path) -> Package:
    """Read a package's documents; its files are verified when the model is loaded."""
    try:
        document = (path / MANIFEST).read_bytes()
        manifest = Manifest.model_validate_json(document)
        signature = read_signature(path)
    except OSError as error:
        raise UserError(f"model package {path}: {error.strerror}: {error.filename}") from None
    except ValidationError as error:
        raise UserError(f"model package {path}: {error}") from None
    version = int(path.name) if path.name.isdecimal() else 0
    return Package(
        path.resolve(), hashlib.sha256(document).hexdigest(), version, manifest, signature
    )
