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

from modelyard.documents import UserError
from modelyard.serving.image import TORCH_BACKEND

SHIPPED = Path(__file__).with_name("hashes.txt")
_REQUIREMENT = re.compile(r"([\w.-]+==[^\s;]+)[^\n]*\n((?: +--hash=sha256:[0-9a-f]{64}.*\n?)+)")


def hashed(pins: list[str]) -> list[str]:
    """`name==version --hash=sha256:…`, one line for each pin, in their order.

    Looked up in what modelyard brings, then in the wheels of $UV_FIND_LINKS, then at the
    index that uv is configured for (with $UV_TORCH_BACKEND, else `cpu`).

    Raises:
        UserError: the index can't be asked, or does not have a pin.
    """
    known = _parsed(SHIPPED.read_text())
    for find in (_local, _asked):
        if missing := [pin for pin in pins if pin not in known]:
            known |= find(missing)
    if missing := [pin for pin in pins if pin not in known]:
        raise UserError(f"{', '.join(missing)}: the index tells no hash, and none is installed so")
    return [" ".join([pin, *(f"--hash={h}" for h in known[pin])]) for pin in pins]


def file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def shipped_pin(name: str) -> str:
    """`name==version` of what modelyard knows the hashes of."""
    return next(pin for pin in _parsed(SHIPPED.read_text()) if pin.startswith(f"{name}=="))


def _parsed(text: str) -> dict[str, list[str]]:
    """Pin → hashes, from a requirements file as uv writes it."""
    return {
        pin: re.findall(r"sha256:[0-9a-f]{64}", block) for pin, block in _REQUIREMENT.findall(text)
    }


def _local(pins: list[str]) -> dict[str, list[str]]:
    """Of wheels in $UV_FIND_LINKS, for which uv tells none; the index is not asked, too."""
    found: dict[str, list[str]] = {}
    for folder in re.split(r"[,\s]+", os.environ.get("UV_FIND_LINKS", "")):
        for wheel in sorted(Path(folder).glob("*.whl")) if folder else []:
            try:
                name, version, _, _ = parse_wheel_filename(wheel.name)
            except InvalidWheelFilename:
                continue
            pin = f"{name}=={version.public}"
            if pin in pins:
                found.setdefault(pin, []).append(file_hash(wheel))
    return found


def _asked(pins: list[str]) -> dict[str, list[str]]:
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    if uv is None:
        raise UserError(f"{', '.join(pins)}: uv is missing, which asks the index for their hashes")
    asked = subprocess.run(
        [uv, "pip", "compile", "--quiet", "--no-deps", "--generate-hashes", "--no-annotate", "-"],
        input="\n".join(pins),
        env={**os.environ, "UV_TORCH_BACKEND": TORCH_BACKEND},
        capture_output=True,
        text=True,
    )
    if asked.returncode:
        raise UserError(
            f"{', '.join(pins)}: the index can't be asked for their hashes, without which an "
            f"image installs nothing:\n{asked.stderr.strip()}"
        )
    # torch==2.13.0+cpu is a build of torch==2.13.0
    return {re.sub(r"\+.*", "", pin): h for pin, h in _parsed(asked.stdout).items()}
