"""The image of the desired version in its registry, by skopeo: is it there, and what it is made of.

A published version never changes: it is used again or refused, but not replaced.
"""

import hashlib
import json
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from modelyard.delivery.policy import RELEASE_FILE, Release
from modelyard.documents import UserError

LABEL = "modelyard.service"
"""of an image: git's id of the bentos/ that it was built from"""
BILL = "application/vnd.cyclonedx+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
# The specification's words and Harbor's for "no such image"; skopeo gives no code for it.
_UNKNOWN = re.compile(
    r"(manifest|name) unknown|unknown: (artifact|repository) [^ ]+ not found", re.IGNORECASE
)


def published(release: Release, service: str) -> str | None:
    """The image by its digest; None where the version is not published yet.

    Raises:
        UserError: it was built from another bentos/, or the registry does not say whether there is
            one.
    """
    if release.digest:
        image = f"{release.image}@{release.digest}"
        if (found := _skopeo("inspect", f"docker://{image}")).returncode:
            raise UserError(f"{image} cannot be read: {_said(found)}")
        return image
    tag = f"{release.image}:{release.version}"
    found = _skopeo("inspect", f"docker://{tag}")
    if found.returncode:
        if is_unknown(release.image, _said(found)):
            return None
        raise UserError(f"The registry does not say whether {tag} exists: {_said(found)}")
    known = json.loads(found.stdout)
    if (known.get("Labels") or {}).get(LABEL) != service:
        raise UserError(
            f"{RELEASE_FILE}: {tag} was built from another bentos/ than this commit's. Register a "
            "new version and ask for it here, or go back to that bentos/."
        )
    return f"{release.image}@{known['Digest']}"


def is_unknown(repository: str, said: str) -> bool:
    """Whether a registry has said that there is no such image. GitHub denies what it has not."""
    denied = repository.startswith("ghcr.io/") and "denied" in said.lower()
    return denied or bool(_UNKNOWN.search(said))


def attach_bill(image: str, bill: bytes) -> str:
    """Push a bill of materials under the tag that cosign gives such ones; where it is then."""
    repository, _, digest = image.partition("@")
    place = f"{repository}:{digest.replace(':', '-')}.sbom"
    raw = _skopeo("inspect", "--raw", f"docker://{image}")
    if raw.returncode:
        raise UserError(f"{image} cannot be read: {_said(raw)}")
    with tempfile.TemporaryDirectory() as folder:
        write_artifact(Path(folder), raw.stdout, digest, bill)
        copied = _skopeo("copy", f"dir:{folder}", f"docker://{place}")
    if copied.returncode:
        raise UserError(f"{place} cannot be pushed: {_said(copied)}")
    return place


def write_artifact(folder: Path, image: bytes, digest: str, bill: bytes) -> None:
    """An OCI artifact that refers to an image, as skopeo's `dir:` has it.

    Args:
        image: its manifest, byte by byte.
        digest: of that manifest.
    """

    def blob(kind: str, content: bytes) -> dict[str, Any]:
        found = hashlib.sha256(content).hexdigest()
        (folder / found).write_bytes(content)
        return {"mediaType": kind, "digest": f"sha256:{found}", "size": len(content)}

    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "artifactType": BILL,
        "config": blob("application/vnd.oci.empty.v1+json", b"{}"),
        "layers": [blob(BILL, bill)],
        "subject": {
            "mediaType": json.loads(image).get("mediaType", _MANIFEST),
            "digest": digest,
            "size": len(image),
        },
    }
    (folder / "version").write_text("Directory Transport Version: 1.1\n")
    (folder / "manifest.json").write_text(json.dumps(manifest))


def _skopeo(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["skopeo", *arguments], capture_output=True)


def _said(done: subprocess.CompletedProcess[bytes]) -> str:
    return done.stderr.decode(errors="replace").strip()
