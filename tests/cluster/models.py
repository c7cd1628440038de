"""The images that the cluster's tests release, of one small real model.

Each version is made by the guide's commands: `modelyard build` and `bentoml
containerize`. The package is the same in all of them, the team's service is not. What was built
from the same content is there already: image builders keep it, outside of this checkout.
"""

import functools
import hashlib
import json
import shutil
import tempfile
import tomllib
from collections.abc import Iterable
from pathlib import Path

from benchmarks.serving import image
from support import ROOT, run

from modelyard.cli import script
from modelyard.documents import Signature
from modelyard.documents.signature import Category, Number
from modelyard.serving.testing import draw_rows, write_package

MODEL = "flight-delay"
GOOD, OTHER_GOOD, FAULTY = 1, 2, 3
FAULTY_FROM = 400
"""the requests that the faulty version answers well, each of one row"""
SIGNATURE = Signature(
    task="binary",
    target="late",
    classes=("on time", "late"),
    inputs=(
        Number(name="distance", minimum=0, maximum=5000, unit="miles"),
        Number(name="hour", integer=True, minimum=0, maximum=23),
        Category(name="carrier", values=("AA", "B6", "UA")),
    ),
    example={"distance": 1400.0, "hour": 17, "carrier": "AA"},
)
TEMPLATE = ROOT / "template" / "bentos" / "service.py"
FAULT = ROOT / "scripts" / "demo-fault.patch"
NAME = "localhost/modelyard-test"
INPUTS = ("bentos", "common", "template/bentos", "constraints.txt")
"""what the models' images are made of, besides how the platform is packaged, and what makes them"""


def rows(count: int, seed: int = 0) -> list[dict[str, object]]:
    """Rows that the model takes, in no order."""
    return draw_rows(SIGNATURE, count, seed)


@functools.cache
def build() -> dict[int, str]:
    """Tags by version; the first time takes minutes, later ones a second."""
    key = _key()
    tags = {version: f"{NAME}/{MODEL}:{version}-{key}" for version in SERVICES}
    missing = [version for version, tag in tags.items() if not image.exists(tag)]
    if missing:
        with tempfile.TemporaryDirectory() as folder:
            for version, bento in _bentos(Path(folder), missing).items():
                image.containerize(bento, tags[version])
        _forget(MODEL, tags.values())
    return tags


def push(registry: str, user: str = "", password: str = "") -> dict[int, str]:
    """Digests by version, in the registry at `host:port`, as `<registry>/flight-delay`."""
    return {
        version: image.push(tag, f"{registry}/{MODEL}:{version}", user, password)
        for version, tag in build().items()
    }


def _bentos(folder: Path, versions: Iterable[int]) -> dict[int, Path]:
    """Built one after the other in a model repo, whose service changes in between."""
    (folder / "pyproject.toml").write_text(f'[project]\nname = "{MODEL}"\nversion = "0.1.0"\n')
    (folder / "bentos").mkdir()
    package = write_package(folder / "package", SIGNATURE, MODEL)
    home = folder / ".modelyard" / "bentoml"
    for version in versions:
        shutil.copytree(package, folder / ".modelyard" / "packages" / str(version))
        shutil.copy(TEMPLATE, folder / "bentos")
        SERVICES[version](folder / "bentos" / "service.py")
        build = [script(), "build", "--version", str(version)]
        run(*build, cwd=folder, BENTOML_HOME=str(home))
    return {version: home / "bentos" / MODEL / str(version) for version in versions}


def _good(service: Path) -> None:
    """The template's."""


def _faulty(service: Path) -> None:
    run("git", "apply", FAULT, cwd=service.parents[1])


SERVICES = {GOOD: _good, OTHER_GOOD: _good, FAULTY: _faulty}


def _key() -> str:
    """Of all that the images are made of."""
    paths = [ROOT / name for name in INPUTS] + [Path(__file__), Path(image.__file__), FAULT]
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packaged = [image.base(), settings["project"], settings["tool"]["hatch"]]
    found = hashlib.sha256(json.dumps(packaged).encode())
    for file in sorted(each for path in paths for each in _files(path)):
        found.update(f"{file.relative_to(ROOT)}\0".encode() + file.read_bytes())
    return found.hexdigest()[:12]


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return [each for each in path.rglob("*") if each.is_file() and each.suffix != ".pyc"]


def _forget(name: str, kept: Iterable[str]) -> None:
    """Images of an earlier content."""
    for tag in set(image.tags(f"{NAME}/{name}")) - {*kept}:
        image.remove(tag)
