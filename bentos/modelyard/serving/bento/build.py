"""`modelyard build`: a registered model version as a Bento.

Run in a model repo. Makes `<project>:<version>` in the Bento store ($BENTOML_HOME, else
`.modelyard/bentoml`) from `bentos/`, the model package, pinned requirements and a wheel
of modelyard. What your `bentos/service.py` imports beyond modelyard belongs into pyproject's
`[project.optional-dependencies] serving`. The build context is a folder of its own: a
pyproject.toml in it would add the training's dependencies to the image.
"""

import logging
import os
import shutil
import sys
import tempfile
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

from modelyard.documents import UserError, releases, verify_package
from modelyard.documents.layout import (
    PACKAGES,
    SOURCE,
    STATE,
    StateFolder,
    bento_tag,
    bentos,
)
from modelyard.documents.package import CARD
from modelyard.serving.bento.closure import pinned, write_wheel
from modelyard.serving.bento.hashes import file_hash, hashed, shipped_pin
from modelyard.serving.bento.sbom import sbom
from modelyard.serving.bentoml_compat.image import INSTALLER, REQUIREMENTS, WHEELS
from modelyard.serving.bentoml_compat.versions import check_versions
from modelyard.serving.inference.runtime import runtime_of
from modelyard.serving.package import newest, read_package, versions

SBOM = "sbom.cdx.json"


def build(
    repo: Path, version: str = "latest", package: Path | None = None, replace: bool = False
) -> str:
    """Build a Bento, unless just this one exists; return its tag.

    A change in `bentos/` belongs to the newest version: an older one that is built stays
    as it is, so that it can be released again.

    Args:
        repo: the model repo's root.
        version: of the model, or `latest`.
        package: a package folder from elsewhere than `.modelyard/packages`.
        replace: build anew where the version was built from other content.

    Raises:
        UserError: there is no such package, it is damaged, the service can't be
            imported, the newest version was built from other content before, or BentoML is of
            another version than was tried.
    """
    check_versions()
    project = _project(repo)
    name = project["name"]
    state = StateFolder(repo / STATE)
    number, package = _choose(state.packages, version, package)
    verify_package(package)
    home = Path(os.environ.setdefault("BENTOML_HOME", str(state.bento_home.resolve())))
    tag, bento = bento_tag(name, number), bentos(home, name) / str(number)
    with tempfile.TemporaryDirectory() as folder:
        context = Path(folder)
        _assemble(context, repo, project, package, number)
        if bento.is_dir():
            changed = _differences(context, bento / SOURCE)
            if not changed:
                print(f"{tag} is built already, from the same content: {bento}")
                return tag
            if not replace and number < max(versions(state.packages), default=0):
                print(f"{tag} stays as it was built, without what changed since: {bento}")
                return tag
            if not replace:
                raise UserError(_other_content(tag, changed))
            if _was_released(state, number):
                raise UserError(
                    f"{tag} was released, so it stays as it is; "
                    "run `make train` to register a new version that takes the changes along"
                )
        _build(context, name, number, bento)
    print(f"{tag} is built: {bento}")
    return tag


def _project(repo: Path) -> dict[str, Any]:
    """The `[project]` table, with a name."""
    try:
        project = tomllib.loads((repo / "pyproject.toml").read_text()).get("project", {})
    except FileNotFoundError:
        project = {}
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{repo / 'pyproject.toml'}: {error}") from None
    if "name" not in project:
        raise UserError(
            f"{repo.resolve()}: no pyproject.toml with a [project] name; run this in a model repo"
        )
    return project


def _choose(packages: Path, version: str, package: Path | None) -> tuple[int, Path]:
    """The version's number and its package."""
    if version != "latest" and not version.isdecimal():
        raise UserError(f"--version {version}: must be a number or latest")
    if package is None and version == "latest":
        package = newest(packages)
    elif package is None:
        package = packages / version
        if not package.is_dir():
            known = ", ".join(map(str, versions(packages))) or "none: run `make train`"
            raise UserError(f"version {version} is not registered in {packages} (known: {known})")
    number = package.resolve().name if version == "latest" else version
    if not number.isdecimal():
        raise UserError(f"--package {package}: say which version it is, with --version N")
    return int(number), package


def _assemble(
    context: Path, repo: Path, project: dict[str, Any], package: Path, number: int
) -> None:
    """All that goes into the Bento's `src`, and nothing else."""
    service = repo / "bentos" / "service.py"
    if not service.is_file():
        raise UserError(f"{service}: no such file; a Bento is built around it")
    hidden = shutil.ignore_patterns(".*", "__pycache__", "*.pyc")
    shutil.copytree(service.parent, context, ignore=hidden, dirs_exist_ok=True)
    shutil.copytree(package, context / PACKAGES / str(number))
    card = package / CARD
    if card.is_file():
        shutil.copy(card, context / "README.md")
    wheel = write_wheel(context / WHEELS)
    own = project.get("optional-dependencies", {}).get("serving", [])
    needs = ["modelyard[serving]", runtime_of(package), *own]
    own_pin = f"modelyard=={metadata.version('modelyard')}"
    lines = hashed([pin for pin in pinned(needs) if not pin.startswith("modelyard==")])
    pins = sorted([own_pin, *(line.split()[0] for line in lines)])
    lines.append(f"./{WHEELS}/{wheel.name} --hash={file_hash(wheel)}")
    (context / REQUIREMENTS).write_text("\n".join(lines) + "\n")
    (context / INSTALLER).write_text("\n".join(hashed([shipped_pin("uv")])) + "\n")
    files = read_package(package).manifest.files
    (context / SBOM).write_text(sbom(project["name"], number, pins, files))


def _differences(context: Path, source: Path) -> list[str]:
    """The files that differ between a build context and the one a Bento was built from."""

    def files(folder: Path) -> dict[str, bytes]:
        paths = (p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
        return {p.relative_to(folder).as_posix(): p.read_bytes() for p in paths}

    new, old = files(context), files(source)
    old.pop("bentofile.yaml", None)  # BentoML's own
    return sorted(n for n in new.keys() | old.keys() if new.get(n) != old.get(n))


def _other_content(tag: str, changed: list[str]) -> str:
    listed = ", ".join(changed[:5]) + (" …" if len(changed) > 5 else "")
    return (
        f"{tag} was built from other content (changed: {listed}); a version stays what it was. "
        "Run `make train` to register a new version that takes the changes along; or, while "
        "this one was never released, rebuild it: "
        f"modelyard build --version {tag.partition(':')[2]} --replace"
    )


def _was_released(state: StateFolder, number: int) -> bool:
    folder = state.releases
    events = [event for record in releases(folder) for event in record] if folder.is_dir() else []
    return any(number in (event.candidate, event.stable) for event in events)


def _build(context: Path, name: str, number: int, bento: Path) -> None:
    """Build, in place of an older Bento of the version if there is one; it stays on failure."""
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
    sys.dont_write_bytecode = True
    import bentoml

    logging.getLogger("bentoml").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(dir=_parent(bento)) as aside:
        older = Path(aside) / "older"
        if bento.is_dir():
            bento.rename(older)
        try:
            bentoml.build(
                "service.py",
                name=name,
                version=str(number),
                build_ctx=str(context),
            )
        except Exception as error:
            raise UserError(f"bentos/service.py: no Bento can be built of it: {error}") from error
        finally:
            if older.is_dir() and not bento.is_dir():
                older.rename(bento)


def _parent(bento: Path) -> Path:
    """A folder on the store's file system which the store itself does not list."""
    folder = bento.parents[2] / "tmp"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
