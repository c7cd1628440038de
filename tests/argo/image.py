"""The image of the release steps, as argo/Dockerfile has it."""

import subprocess

from benchmarks.serving import image
from support import ROOT

TAG = "localhost/modelyard-delivery:test"


def build(version: str) -> str:
    """Its tag, after it was built on `image.base()` by what builds images here.

    The image is kept, by whose layers the next time takes seconds.

    Raises:
        CalledProcessError: it failed; `stderr` says why.
    """
    before = _known()
    given = [f"--build-arg=BASE={image.base()}", f"--build-arg=VERSION={version}"]
    _build("--layers", *given, "--file=argo/Dockerfile", f"--tag={TAG}", str(ROOT))
    if before not in ("", _known()):
        image.remove(before)
    return TAG


def add(folder: str, tag: str) -> None:
    """Another image, with the files of a folder at its root, as a cluster would mount them."""
    lines = f"FROM {TAG}\nCOPY . /\nWORKDIR /modelyard\n"
    _build("--file=-", f"--tag={tag}", folder, given=lines)


def _build(*options: str, given: str = "") -> None:
    command = ["docker", "build", *(each for each in options if each != "--layers")]
    if image.builder() == "buildah":
        command = ["buildah", "build", "--isolation=chroot", *options]
    subprocess.run(command, input=given, check=True, capture_output=True, text=True)


def _known() -> str:
    command = [image.builder() or "docker", "images", "--quiet", TAG]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()
