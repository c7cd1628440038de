"""The software bill of materials of a serving image's Python packages, as CycloneDX 1.6.

The base image's own packages are not in it: a scanner lists those from the image.
"""

import json
from importlib import metadata
from typing import Any
from urllib.parse import quote
from uuid import NAMESPACE_URL, uuid5


def sbom(name: str, version: int, pins: list[str], files: dict[str, str]) -> str:
    """The document, the same for the same content (so it has no time of its own).

    Args:
        name, version: of the model, which is the component that it describes.
        pins: `distribution==version` of all that is installed.
        files: path in the model package → SHA-256.
    """
    packages = [_package(*pin.split("==")) for pin in pins]
    model = {
        "type": "machine-learning-model",
        "bom-ref": f"{name}@{version}",
        "name": name,
        "version": str(version),
        "components": [
            {"type": "file", "name": path, "hashes": [{"alg": "SHA-256", "content": digest}]}
            for path, digest in sorted(files.items())
        ],
    }
    document: dict[str, Any] = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": model},
        "components": packages,
        "dependencies": [
            {"ref": model["bom-ref"], "dependsOn": [package["bom-ref"] for package in packages]}
        ],
    }
    content = json.dumps(document, sort_keys=True)
    document["serialNumber"] = f"urn:uuid:{uuid5(NAMESPACE_URL, content)}"
    return json.dumps(document, indent=2) + "\n"


def _package(name: str, version: str) -> dict[str, Any]:
    url = f"pkg:pypi/{name}@{quote(version)}"
    package: dict[str, Any] = {
        "type": "library",
        "bom-ref": url,
        "name": name,
        "version": version,
        "purl": url,
    }
    about = metadata.metadata(name).json
    if expression := about.get("license_expression"):
        package["licenses"] = [{"expression": expression}]
    if summary := about.get("summary"):
        package["description"] = summary
    return package
