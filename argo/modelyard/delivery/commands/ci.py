"""`modelyard ci …`: the steps of a release workflow that are more than a command of another tool.

What later steps need is printed as `name=value`, a line each, for `$GITHUB_OUTPUT`; all else goes
to stderr. A mistake is an annotation, too.
"""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from modelyard.cli import MISTAKE
from modelyard.cli.parser import Parser
from modelyard.delivery.commands import CI
from modelyard.delivery.manifests.objects import to_yaml
from modelyard.delivery.manifests.render import on_kubernetes, submitted, target_of
from modelyard.delivery.policy import DIGEST, load_release, project_name
from modelyard.delivery.publishing import attach_bill, published
from modelyard.documents import UserError

BENTOS = Path(".modelyard/bentoml/bentos")


def main(arguments: Sequence[str]) -> int:
    parser = Parser(CI)
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("--image", default="", help="by digest, for attach-sbom and releases")
    given = parser.parse_args(arguments)
    try:
        STEPS[given.step](given.image)
    except UserError as error:
        print(f"::error::{str(error).replace('%', '%25').replace(chr(10), '%0A')}", file=sys.stderr)
        return MISTAKE
    return 0


def _desired(_: str) -> None:
    """What argo/release.yaml asks for."""
    release, model = load_release(), project_name()
    print(f"bento={model}:{release.version}")
    print(f"version={release.version}")
    print(f"repository={release.image}")
    print(f"service={_service()}")


def _published(_: str) -> None:
    """The image, where it is published already."""
    release = load_release()
    if image := published(release, _service()):
        print(f"image={image}")
    else:
        print(f"{release.image}:{release.version} is not published yet", file=sys.stderr)


def _attach_sbom(image: str) -> None:
    """The Bento's bill of materials, beside its image."""
    version = str(load_release().version)
    bill = BENTOS / project_name() / version / "src" / "sbom.cdx.json"
    _digest(image)
    print(attach_bill(image, bill.read_bytes()), file=sys.stderr)


def _releases(image: str) -> None:
    """What to submit of this image: the first environment, and those that wait for it."""
    release, model = load_release(), project_name()
    release = release.for_version(release.version, _digest(image))
    found = [
        {
            "environment": name,
            "namespace": target_of(release, name, model).namespace,
            "workflow": to_yaml([submitted(release, name, model)], header=""),
        }
        for name in on_kubernetes(release)
    ]
    print(f"first={json.dumps(found[0])}")
    print(f"next={json.dumps(found[1:])}")


def _digest(image: str) -> str:
    if not re.match(DIGEST, digest := image.partition("@")[2]):
        raise UserError(f"--image {image}: give it by its digest, NAME@sha256:…")
    return digest


def _service() -> str:
    """Git's id of the bentos/ that an image is built from."""
    command = ["git", "rev-parse", "HEAD:bentos"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


STEPS: dict[str, Callable[[str], None]] = {
    "desired": _desired,
    "published": _published,
    "attach-sbom": _attach_sbom,
    "releases": _releases,
}
