"""What a node needs of the machine, and where tests look for a cluster."""

import os
import re
import shutil
import subprocess

from benchmarks.serving import image

KUBECONFIG = "MODELYARD_TEST_KUBECONFIG"
"""of a cluster of one's own; KUBECONFIG is not looked at, since people export it for production"""
REQUIRED = "MODELYARD_REQUIRE_CLUSTER"
"""1: tests that can't run for want of a cluster fail"""
# Program → Debian's package.
DEBIAN = {
    "ip": "iproute2", "iptables": "iptables", "ipset": "ipset", "conntrack": "conntrack",
    "runc": "runc", "docker-registry": "docker-registry", "buildah": "buildah",
    "debootstrap": "debootstrap", "openssl": "openssl", "git": "git",
}  # fmt: skip
PLUGIN = "/usr/lib/cni/bridge"


def required() -> bool:
    return os.environ.get(REQUIRED) == "1"


def missing() -> str:
    """One line that says what a node lacks here; empty if nothing."""
    lacks = []
    if os.getuid():
        lacks.append("root")
    if _go() < (1, 26):
        lacks.append("Go 1.26 or newer")
    packages = [package for name, package in DEBIAN.items() if shutil.which(name) is None]
    if not os.path.exists(PLUGIN):
        packages.append("containernetworking-plugins")
    if packages:
        lacks.append(f"Debian's {' '.join(packages)}")
    if not lacks and image.builder() != "buildah":
        lacks.append(image.NONE)
    return f"needs {', '.join(lacks)}" if lacks else ""


def _go() -> tuple[int, int]:
    if shutil.which("go") is None:
        return 0, 0
    told = subprocess.run(["go", "env", "GOVERSION"], capture_output=True, text=True).stdout
    found = re.match(r"go(\d+)\.(\d+)", told)
    return (int(found[1]), int(found[2])) if found else (0, 0)
