"""Make a virtual environment with uv in it, from Python's standard library alone.

    python3 bootstrap.py .venv 0.13.8

Debian's python3 comes without pip and ensurepip; there, uv's wheel is taken from
PyPI directly. Where pip exists it is used, so that its configuration (an index of
one's own, a certificate) holds.
"""

import hashlib
import importlib.util
import io
import os
import platform
import re
import subprocess
import sys
import urllib.parse
import urllib.request
import venv
import zipfile
from pathlib import Path


def main(folder: Path, version: str) -> None:
    if importlib.util.find_spec("ensurepip"):
        venv.create(folder, with_pip=True)
        pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, "--disable-pip-version-check", f"uv=={version}"], check=True)
    else:
        venv.create(folder, with_pip=False)
        uv = folder / "bin" / "uv"
        uv.write_bytes(_uv_from_pypi(version))
        uv.chmod(0o755)


def _uv_from_pypi(version: str) -> bytes:
    """The `uv` executable of the wheel for this Linux machine, its hash checked (PEP 503)."""
    tag = f"uv-{version}-py3-none-manylinux_2_17_{platform.machine()}"
    with urllib.request.urlopen("https://pypi.org/simple/uv/", timeout=60) as reply:
        page = reply.read().decode()
    found = re.search(rf'href="([^"#]*/{re.escape(tag)}[^"#]*[.]whl)#sha256=(\w+)"', page)
    if found is None:
        sys.exit(f"PyPI has no {tag}: install python3-venv, then try again")
    url = urllib.parse.urljoin("https://pypi.org/simple/uv/", found[1])
    with urllib.request.urlopen(url, timeout=300) as reply:
        data = reply.read()
    if hashlib.sha256(data).hexdigest() != found[2]:
        sys.exit(f"{url}: the download does not match its hash; try again")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        name = next(n for n in archive.namelist() if n.endswith("/scripts/uv"))
        return archive.read(name)


if __name__ == "__main__":
    if sys.version_info[:2] not in {(3, 11), (3, 12)}:
        sys.exit(
            f"modelyard needs Python 3.11 or 3.12, this is {platform.python_version()}: "
            "give another one as PYTHON=… to make"
        )
    os.umask(0o022)
    main(Path(sys.argv[1]), sys.argv[2])
