"""The local side of the ports: Envoy, `bentoml serve` processes, a JSON-lines record.

Everything lives in `.modelyard/` of the model repo. The data plane (Envoy and the
servers) outlives the command, so users are served between releases and while no
controller runs.
"""

import fcntl
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from modelyard.delivery.local.envoy.process import Envoy
from modelyard.delivery.local.process_supervisor import Server, free_port, wait_until
from modelyard.delivery.local.reference import read_reference
from modelyard.delivery.local.shadow_replay import ShadowReplay
from modelyard.delivery.local.source import EnvoySource
from modelyard.delivery.policy import Local
from modelyard.delivery.ports import Health, Ports, Routes
from modelyard.documents import ReleaseEvent, UserError, read_record
from modelyard.documents import releases as read_releases

STATE = Path(".modelyard")
_DRAIN_S = 10.0
_HEALTH_S = 0.5
_FLUSH_S = "0.25"
"""between two files of a prediction log: as often as the local policy looks"""


def local_ports(model: str, environment: Local, state: Path = STATE) -> Ports:
    """The four ports of this machine; `model` is the name of the Bentos."""
    runtime = BentoRuntime(model, environment, state)
    return Ports(
        router=EnvoyRouter(runtime),
        runtime=runtime,
        source=EnvoySource(runtime, environment.policy.gates),
        record=FileRecord(state),
        shadow=ShadowReplay(runtime, environment.replay_rate),
    )


def latest(model: str, state: Path = STATE) -> int:
    """The newest version that there is a Bento of.

    Raises:
        UserError: there is none.
    """
    found = bentos(state / "bentoml" / "bentos" / model)
    if not found:
        raise UserError(
            f"no Bento of {model} in {state / 'bentoml'}; train a model and run `make bento`"
        )
    return max(found)


def bentos(folder: Path) -> list[int]:
    """The versions in the Bento store's folder of one model, ascending."""
    names = [path.parent.name for path in folder.glob("*/bento.yaml")]
    return sorted(int(name) for name in names if name.isdigit())


class BentoRuntime:
    """One `bentoml serve` a version, in a home of its own.

    Two servers that share a BENTOML_HOME wipe each other's counters.
    """

    def __init__(self, model: str, environment: Local, state: Path = STATE) -> None:
        self.folder = state.absolute() / "serving"
        self.bentos = state.absolute() / "bentoml" / "bentos" / model
        self.envoy = Envoy(self.folder / "envoy", environment.port)
        self._gates = environment.policy.gates
        self._client = httpx.Client(timeout=_HEALTH_S)
        self._identified: set[str] = set()

    def check(self, version: int) -> None:
        """See that the Bento is there, whole, and that Envoy has the port or can have it."""
        if not (self.bentos / str(version) / "bento.yaml").is_file():
            known = ", ".join(map(str, bentos(self.bentos))) or "none"
            raise UserError(
                f"no Bento of version {version} in {self.bentos} (there: {known}); "
                f"run `make bento VERSION={version}`"
            )
        if self._gates.predictions or self._gates.scores:
            read_reference(self.package(version))
        self.envoy.check()

    def deploy(self, version: int) -> None:
        server = self._server(version)
        if server.alive():
            return
        bento = self.bentos / str(version)
        if not bento.is_dir():
            raise UserError(f"the Bento {bento} is gone; run `make bento VERSION={version}`")
        port = free_port()
        home = server.folder / "bentoml"
        home.mkdir(parents=True, exist_ok=True)
        self.predictions(version).mkdir(parents=True, exist_ok=True)
        server.start(
            [sys.executable, "-m", "bentoml", "serve", str(bento),
             "--host", "127.0.0.1", "--port", str(port)],
            {
                "BENTOML_HOME": str(home),
                "BENTOML_DO_NOT_TRACK": "True",
                "MODELYARD_PREDICTION_LOG": str(self.predictions(version)),
                "MODELYARD_PREDICTION_LOG_FLUSH": _FLUSH_S,
                # Servers share this machine with each other and with the replayed traffic.
                "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
            },
            port=port,
            version=version,
        )  # fmt: skip

    def health(self, version: int) -> Health:
        server = self._server(version)
        facts = server.facts
        if facts is None:
            return Health(status="absent", detail=f"version {version} is not running", ready=0)
        if not server.alive():
            ended = f"its server ended; the end of its log:\n{server.log_tail()}"
            return Health(status="failed", detail=ended, ready=0)
        url = f"http://127.0.0.1:{facts['port']}"
        try:
            reply = self._client.get(f"{url}/readyz")
        except httpx.HTTPError as error:
            # One that is busy answers late: that is not to be silent.
            ready = None if isinstance(error, httpx.ReadTimeout) else 0
            return self._starting(server, f"{type(error).__name__} at {url}/readyz", ready)
        if reply.status_code != 200:
            return self._starting(server, f"{url}/readyz says {reply.status_code}", 0)
        return self._identify(version, url, server)

    def stop(self, version: int) -> None:
        server = self._server(version)
        if server.alive() and self.envoy.server.alive():
            wait_until(lambda: self.envoy.idle(f"(direct-|replay-)?v{version}"), _DRAIN_S)
        server.stop()

    def versions(self) -> set[int]:
        found = self.folder.glob("v*/process.json")
        return {int(file.parent.name.removeprefix("v")) for file in found}

    def shut_down(self) -> None:
        """End everything: first the way in, then the servers."""
        self.envoy.stop()
        for version in sorted(self.versions()):
            self._server(version).stop()

    def port(self, version: int) -> int:
        facts = self._server(version).facts
        if facts is None:
            raise UserError(f"version {version} is not running")
        return int(facts["port"])

    def package(self, version: int) -> Path:
        """The model package in the Bento."""
        return self.bentos / str(version) / "src" / "packages" / str(version)

    def predictions(self, version: int) -> Path:
        """The prediction log's folder."""
        return self.folder / f"v{version}" / "predictions"

    def _server(self, version: int) -> Server:
        return Server(self.folder / f"v{version}")

    def _starting(self, server: Server, what: str, ready: int | None) -> Health:
        detail = f"{what}; the end of its log:\n{server.log_tail()}"
        return Health(status="starting", detail=detail, ready=ready)

    def _identify(self, version: int, url: str, server: Server) -> Health:
        """Ready, if it says that it is the version that it should be."""
        token = (server.facts or {}).get("token", "")
        if token in self._identified:
            return Health(status="ready", ready=1)
        try:
            reply = self._client.get(f"{url}/model")
            says = reply.raise_for_status().json()["version"]
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            return self._starting(server, f"{url}/model: {type(error).__name__}: {error}", None)
        if says != version:
            return Health(
                status="failed", detail=f"the server of version {version} says it is {says}"
            )
        self._identified.add(token)
        return Health(status="ready", ready=1)


class EnvoyRouter:
    """The weights of the local Envoy."""

    def __init__(self, runtime: BentoRuntime) -> None:
        self._runtime = runtime

    def route(self, routes: Routes) -> None:
        used = [v for v in (routes.stable, routes.candidate) if v is not None]
        self._runtime.envoy.apply(routes, {v: self._runtime.port(v) for v in used})

    def serving(self) -> dict[int, int]:
        return self._runtime.envoy.serving()


class FileRecord:
    """One JSON-lines file a release, in `releases/`."""

    def __init__(self, state: Path = STATE) -> None:
        self.folder = state.absolute() / "releases"

    @contextmanager
    def lock(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("a+") as file:
            try:
                # The kernel drops it with the process: a killed controller leaves no lock.
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise UserError(
                    f"another controller (process {file.read().strip() or 'unknown'}) is at "
                    "work on this environment; wait for it, or end it"
                ) from None
            file.seek(0)
            file.truncate()
            file.write(f"{os.getpid()}\n")
            file.flush()
            yield

    def check(self) -> None:
        """The kernel keeps the lock for as long as this process lives."""

    def releases(self) -> list[list[ReleaseEvent]]:
        return read_releases(self.folder)

    def append(self, event: ReleaseEvent) -> None:
        path = self.folder / f"{event.release}.jsonl"
        try:
            if event.sequence and not path.exists():
                raise UserError(f"the release record {path} is gone: who has removed it?")
            _drop_cut_line(path)
            with path.open("a") as file:
                file.write(event.model_dump_json(exclude_none=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UserError(f"can't write the release record {path}: {error.strerror}") from None

    def set_aside(self, sound: Callable[[list[ReleaseEvent]], bool]) -> list[str]:
        """By another ending, which `releases` does not look for."""
        aside = []
        for path in sorted(self.folder.glob("*.jsonl")):
            try:
                fine = sound(read_record(path))
            except UserError:
                fine = False
            if not fine:
                aside.append(path.rename(path.with_suffix(".jsonl.set-aside")))
        return list(map(str, aside))


def _drop_cut_line(path: Path) -> None:
    """A crash in the middle of a write leaves a line without its end: it counts as unwritten."""
    if not path.exists():
        return
    text = path.read_bytes()
    if text and not text.endswith(b"\n"):
        os.truncate(path, text.rfind(b"\n") + 1)
