"""A Bento's image, built and served: by docker, or by buildah, which needs no engine.

buildah runs as root, in chroot isolation, which works in a container, too. Where it has no
base image and no registry to pull one from, debootstrap makes one of Debian.
"""

import contextlib
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

BASE = "python:3.11-slim"
NONE = "no docker, and no buildah with root; or no base image can be had"
DEBIAN = "localhost/debian-python:3.11"
"""what debootstrap makes: Debian 12 has Python 3.11"""
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
KEEP_LAYERS = {"BUILDAH_LAYERS": "true"}
"""as docker does by itself: images of the same requirements share what was installed"""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MOUNTS = """\
touch $0/etc/hosts $0/etc/resolv.conf
mount --bind $0 $0 && mount --options remount,bind,ro $0 && mount --types tmpfs tmpfs $0/tmp
for each in /proc /dev /etc/hosts /etc/resolv.conf; do mount --rbind $each $0$each; done
exec chroot --userspec "$1" $0 env --ignore-environment --chdir "$2" "${@:3}"
"""
"""root, user, folder, then variables and the command: what an engine does for --read-only"""


def builder() -> str | None:
    """`docker`, `buildah`, or none of them works here."""
    docker = shutil.which("docker")
    if docker and not subprocess.run([docker, "info"], capture_output=True).returncode:
        return "docker"
    if os.getuid() or not all(map(shutil.which, ("buildah", "debootstrap", "chroot", "unshare"))):
        return None
    mounts = subprocess.run(["unshare", "--mount", "true"], capture_output=True)
    return None if mounts.returncode else "buildah"


def containerize(bento: Path, tag: str) -> None:
    """`bentoml containerize`, as a model repo's workflow has it.

    Raises:
        CalledProcessError: it failed; `stderr` says why.
    """
    options: list[str] = []
    if builder() == "buildah":
        options = ["--backend", "buildah", "--opt", "isolation=chroot", "--opt", f"from={base()}"]
        links = os.environ.get("UV_FIND_LINKS", "")
        if Path(links).is_absolute() and Path(links).is_dir():
            options += ["--opt", f"volume={links}:{links}:ro"]
            options += ["--opt", f"build-arg=UV_FIND_LINKS={links}"]
    name = f"{bento.parent.name}:{bento.name}"
    home = {"BENTOML_HOME": str(bento.parents[2]), "BENTOML_DO_NOT_TRACK": "True"}
    command = [sys.executable, "-m", "bentoml", "containerize", name, "--image-tag", tag, *options]
    _run(command, env={**os.environ, **home, **KEEP_LAYERS})


def push(tag: str, reference: str, user: str = "", password: str = "") -> str:
    """Push an image to a registry on this machine as `host:port/name:tag`; its digest.

    Raises:
        CalledProcessError: it failed; `stderr` says why.
    """
    if builder() == "docker":
        host, _, name = reference.rpartition(":")[0].partition("/")
        if user:
            login = ["docker", "login", "--username", user, "--password-stdin", host]
            _run(login, input=password)
        _run(["docker", "tag", tag, reference])
        _run(["docker", "push", "--quiet", reference])
        told = _run(["docker", "image", "inspect", "--format", "{{json .RepoDigests}}", reference])
        own = (each.partition("@") for each in json.loads(told))
        return next(digest for where, _, digest in own if where == f"{host}/{name}")
    return push_by_buildah(tag, reference, user, password)


def push_by_buildah(tag: str, reference: str, user: str = "", password: str = "") -> str:
    """As `push`, of an image that buildah has."""
    with tempfile.NamedTemporaryFile() as file:
        # On one machine, compressing takes longer than what it saves.
        options = ["--quiet", "--tls-verify=false", "--disable-compression"]
        options += ["--digestfile", file.name]
        options += ["--creds", f"{user}:{password}"] if user else []
        _run(["buildah", "push", *options, tag, f"docker://{reference}"])
        return Path(file.name).read_text().strip()


def tags(name: str) -> list[str]:
    """All tags that the builder has of an image, as `name:tag`.

    None where another process removes an image meanwhile: buildah fails then.
    """
    form = "{{.Repository}}:{{.Tag}}" if builder() == "docker" else "{{.Name}}:{{.Tag}}"
    command = [builder() or "docker", "images", "--format", form]
    listed = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
    return [line for line in listed if line.startswith(f"{name}:")]


def exists(tag: str) -> bool:
    engine = builder() or "docker"
    return not subprocess.run(
        [engine, "inspect", "--type=image", tag], capture_output=True
    ).returncode


def size(tag: str) -> int:
    """Bytes of its layers, not compressed."""
    if builder() == "docker":
        return int(_run(["docker", "image", "inspect", "--format", "{{.Size}}", tag]))
    image = json.loads(_run(["buildah", "inspect", "--type", "image", tag]))
    return sum(layer["size"] for layer in json.loads(image["Manifest"])["layers"])


def remove(tag: str) -> None:
    engine = builder() or "docker"
    subprocess.run([engine, "rmi", "--force", tag], capture_output=True)


@dataclass(frozen=True)
class Images:
    """Ours and plain BentoML's, of one model; ours can be served."""

    runner: "Runner"
    size: int
    plain_size: int

    def command(self, port: int) -> list[str]:
        """What serves from the entrypoint, with the prediction log on."""
        log = {"MODELYARD_PREDICTION_LOG": "/tmp/predictions"}
        return self.runner.command(BENTOML_PORT=str(port), OMP_NUM_THREADS="1", **log)


@contextlib.contextmanager
def images(folder: Path, package: Path, bento: Path) -> Iterator[Images | None]:
    """Both, built the same way; none, and a line that says so, where nothing can build them."""
    if base() is None:
        print(f"no image is measured: {NONE}", file=sys.stderr)
        yield None
        return
    tags = {"modelyard-bench:1": bento, "modelyard-bench:plain": build_plain(folder, package)}
    try:
        for tag, each in tags.items():
            print(f"image {tag}", file=sys.stderr)
            containerize(each, tag)
        ours, plain = map(size, tags)
        with runner("modelyard-bench:1") as running:
            yield Images(running, ours, plain)
    finally:
        for tag in tags:
            remove(tag)


@contextlib.contextmanager
def runner(tag: str) -> Iterator["Runner"]:
    """Commands in the image, as its user, on a read-only root with a /tmp, on this host's net."""
    if builder() == "docker":
        yield Runner(tag, None, {})
        return
    container = _run(["buildah", "from", tag]).strip()
    try:
        described = json.loads(_run(["buildah", "inspect", container]))
        yield Runner(tag, _run(["buildah", "mount", container]).strip(), described)
    finally:
        subprocess.run(["buildah", "rm", container], capture_output=True)


class Runner:
    def __init__(self, tag: str, root: str | None, described: dict[str, Any]) -> None:
        self._tag, self._root = tag, root
        self._config = described.get("OCIv1", {}).get("config", {})

    def command(self, *command: str, **variables: str) -> list[str]:
        """What starts a command on this machine; none: the image's entrypoint."""
        settings = [f"{name}={value}" for name, value in variables.items()]
        if self._root is None:
            started = ["docker", "run", "--rm", "--read-only", "--tmpfs", "/tmp", "--network=host"]
            started += [f"--env={setting}" for setting in settings]
            if command:
                started += ["--entrypoint", command[0]]
            return [*started, self._tag, *command[1:]]
        config = self._config
        return [
            "unshare", "--mount", "bash", "-c", MOUNTS,
            self._root, config["User"], config.get("WorkingDir", "/"),
            *config["Env"], *settings, *(command or config["Entrypoint"]),
        ]  # fmt: skip

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(*command), capture_output=True, text=True, timeout=60)


@functools.cache
def base() -> str | None:
    """A base image with Python 3.11 and pip: of this machine, pulled, or made by debootstrap."""
    engine = builder()
    if engine is None:
        return None
    for command in (["inspect", "--type=image"], ["pull", "--quiet"]):
        for tag in (DEBIAN, BASE):
            if not subprocess.run([engine, *command, tag], capture_output=True).returncode:
                return tag
    try:
        return _debian() if engine == "buildah" else None
    except subprocess.CalledProcessError:
        return None


def _debian() -> str:
    print(f"no {BASE} to pull: debootstrap makes a base of Debian", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        root, archive = Path(folder) / "root", Path(folder) / "root.tar"
        packages = "--include=ca-certificates,python3,python3-pip"
        _run(["debootstrap", "--variant=minbase", packages, "bookworm", str(root)])
        for mark in root.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
            mark.unlink()  # as in Docker's Python images, for a plain `pip install`
        # What this machine trusts is what can reach its index.
        shutil.copy(CERTIFICATES, root / CERTIFICATES.relative_to("/"))
        without = [f"--exclude=./{path}" for path in ("dev/*", "var/cache/apt/*", "var/lib/apt/*")]
        _run(["tar", "--numeric-owner", "-C", str(root), *without, "-cf", str(archive), "."])
        container = _run(["buildah", "from", "scratch"]).strip()
        _run(["buildah", "add", "--quiet", container, str(archive), "/"])
    variables = {"PATH": PATH, "SSL_CERT_FILE": CERTIFICATES, "PIP_CERT": CERTIFICATES}
    for name, value in variables.items():
        _run(["buildah", "config", "--env", f"{name}={value}", container])
    _run(["buildah", "commit", "--quiet", "--rm", container, DEBIAN])
    return DEBIAN


def _run(command: list[str], **settings: Any) -> str:
    done = subprocess.run(command, capture_output=True, text=True, **settings)
    if done.returncode:
        print(done.stderr[-4000:], file=sys.stderr)
    done.check_returncode()
    return done.stdout


def build_plain(folder: Path, package: Path) -> Path:
    """The Bento of BentoML's tutorial: the peer's service, with the packages that it imports.

    torch is the build that is installed here: unpinned, the one for a GPU makes it 6.7 GB.
    """
    context = folder / "plain"
    shutil.copytree(Path(__file__).parent / "peers", context)
    shutil.copytree(package, context / "package" / package.name)
    torch = f"torch=={metadata.version('torch')}"
    backend = "envs: [{name: UV_TORCH_BACKEND, value: cpu}]\n"
    settings = {"PACKAGE": f"package/{package.name}", "RUNTIME": "torch"}
    if not os.environ.get("UV_FIND_LINKS"):
        settings |= {"UV_TORCH_BACKEND": "cpu"}
    (context / "bentofile.yaml").write_text(
        f"service: bentoml_plain:Plain\nname: plain\npython: {{packages: [{torch}, numpy]}}\n"
        + ("" if os.environ.get("UV_FIND_LINKS") else backend)
    )
    home = folder / "plain-home"
    command = [sys.executable, "-m", "bentoml", "build", "--version", "1"]
    _run(command, cwd=context, env={**os.environ, **settings, "BENTOML_HOME": str(home)})
    return home / "bentos" / "plain" / "1"
