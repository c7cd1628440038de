"""Hashes of the distributions that a serving image installs, of every platform's files.

Those of the platform's own pins come with modelyard (`hashes.txt`, compiled with
constraints.txt), so that building a Bento asks no index. Others are a team's own pins, and
torch, whose build for a CPU is another index's than the one for a GPU.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from packaging.version import Version

from modelyard.documents import UserError
from modelyard.serving.bentoml_compat.image import TORCH_BACKEND

SHIPPED = Path(__file__).with_name("hashes.txt")
_REQUIREMENT = re.compile(r"([\w.-]+==[^\s;]+)[^\n]*\n((?: +--hash=sha256:[0-9a-f]{64}.*\n?)+)")


def hashed(pins: list[str]) -> list[str]:
    """`name==version --hash=sha256:…`, one line for each pin, in their order.

    Looked up in what modelyard brings, then in the wheels of $UV_FIND_LINKS, then at the
    index that uv is configured for. The version is that of the file: `torch==2.13.0+cpu` for
    `torch==2.13.0`, since uv holds no other to have that hash.

    Raises:
        UserError: the index can't be asked, or does not have a pin.
    """
    known = _parsed(SHIPPED.read_text())
    for find in (_local, _asked):
        if missing := [pin for pin in pins if pin not in known]:
            known |= find(missing)
    if missing := [pin for pin in pins if pin not in known]:
        raise UserError(f"{', '.join(missing)}: the index has no hash of such a file")
    return [known[pin] for pin in pins]


def file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def shipped_pin(name: str) -> str:
    """`name==version` of what modelyard knows the hashes of."""
    return next(pin for pin in _parsed(SHIPPED.read_text()) if pin.startswith(f"{name}=="))


def _parsed(text: str) -> dict[str, str]:
    """Pin → its line, from a requirements file as uv writes it."""
    found = {}
    for pin, block in _REQUIREMENT.findall(text):
        found |= _line(pin, re.findall(r"sha256:[0-9a-f]{64}", block))
    return found


def _line(pin: str, hashes: list[str]) -> dict[str, str]:
    """The pin without the local part of its version → the whole line."""
    return {pin.partition("+")[0]: " ".join([pin, *(f"--hash={each}" for each in hashes)])}


def _local(pins: list[str]) -> dict[str, str]:
    """Of wheels in $UV_FIND_LINKS, for which uv tells no hash; of the version that uv prefers."""
    wheels: dict[tuple[str, Version], list[Path]] = {}
    for folder in re.split(r"[,\s]+", os.environ.get("UV_FIND_LINKS", "")):
        for wheel in sorted(Path(folder).glob("*.whl")) if folder else []:
            try:
                name, version, _, _ = parse_wheel_filename(wheel.name)
            except InvalidWheelFilename:
                continue
            if f"{name}=={version.public}" in pins:
                wheels.setdefault((name, version), []).append(wheel)
    found: dict[str, str] = {}
    for (name, version), files in sorted(wheels.items()):
        found |= _line(f"{name}=={version}", [file_hash(file) for file in files])
    return found


def _asked(pins: list[str]) -> dict[str, str]:
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    if uv is None:
        raise UserError(f"{', '.join(pins)}: uv is missing, which asks the index for their hashes")
    asked = subprocess.run(
        [uv, "pip", "compile", "--quiet", "--no-deps", "--generate-hashes", "--no-annotate", "-"],
        input="\n".join(pins),
        env=os.environ | ({"UV_TORCH_BACKEND": TORCH_BACKEND} if TORCH_BACKEND else {}),
        capture_output=True,
        text=True,
    )
    if asked.returncode:
        raise UserError(
            f"{', '.join(pins)}: the index can't be asked for their hashes, without which an "
            f"image installs nothing:\n{asked.stderr.strip()}"
        )
    return _parsed(asked.stdout)
