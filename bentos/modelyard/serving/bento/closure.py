"""What a serving image installs: the serving closure, pinned, and modelyard itself.

Both are taken from the environment that runs the build, so the image gets just what was
tested. No index is asked: a build takes no network, and it works for an editable
checkout as for an install from a git commit.
"""

import base64
import hashlib
import zipfile
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from modelyard.documents import UserError
from modelyard.serving.bento.hashes import SHIPPED

PACKAGES = ("cli", "coding", "documents", "serving")
"""of modelyard, which a server or `modelyard score` imports"""
EPOCH = (1980, 1, 1, 0, 0, 0)


def pinned(requirements: list[str]) -> list[str]:
    """`name==version` of the requirements and all that they need, sorted.

    Local parts of versions (torch's `+cpu`) are dropped: they name a build of the
    version, and the image's index chooses its own.

    Raises:
        UserError: something that it needs is not installed.
    """
    pins: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [(r, extra) for r in map(Requirement, requirements) for extra in ("", *r.extras)]
    while waiting:
        need, extra = waiting.pop()
        name = canonicalize_name(need.name)
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            raise UserError(f"{need} is not installed here; run `make setup`") from None
        pins[name] = f"{name}=={Version(distribution.version).public}"
        for text in distribution.requires or []:
            child = Requirement(text)
            if child.marker is None or child.marker.evaluate({"extra": extra}):
                waiting += [(child, e) for e in ("", *child.extras)]
    return sorted(pins.values())


def write_wheel(folder: Path) -> Path:
    """A wheel of what a server imports of modelyard, as installed here; always the same bytes."""
    distribution = metadata.distribution("modelyard")
    stem = f"modelyard-{distribution.version}"
    files = {
        f"modelyard/{package}/{path.relative_to(root).as_posix()}": path.read_bytes()
        for package in PACKAGES
        for root in _folders(package)
        for path in sorted(root.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts and path != SHIPPED
    }
    for name in ("METADATA", "entry_points.txt"):
        files[f"{stem}.dist-info/{name}"] = (distribution.read_text(name) or "").encode()
    files[f"{stem}.dist-info/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: modelyard\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    record = f"{stem}.dist-info/RECORD"
    lines = [f"{name},sha256={_digest(data)},{len(data)}" for name, data in files.items()]
    files[record] = "\n".join([*lines, f"{record},,", ""]).encode()
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, data)
    return wheel


def _folders(package: str) -> list[Path]:
    found = find_spec(f"modelyard.{package}")
    assert found and found.submodule_search_locations, package
    return [*map(Path, found.submodule_search_locations)]


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
