"""Runtime on a laptop: one `bentoml serve` a version."""

import os
import sys

import httpx

from modelyard.delivery.evidence.looks import Health
from modelyard.delivery.local.envoy.process import Envoy
from modelyard.delivery.local.folders import Folders
from modelyard.delivery.local.process_supervisor import Server, free_port, wait_until
from modelyard.delivery.local.reference import read_reference
from modelyard.delivery.policy import Gates
from modelyard.documents import UserError
from modelyard.documents.http import MODEL_ROUTE, READINESS_ROUTE
from modelyard.documents.prediction_log import FLUSH_VARIABLE, PLACE_VARIABLE

_DRAIN_S = 10.0
_HEALTH_S = 0.5
_FLUSH_S = "0.25"
"""between two files of a prediction log: as often as the local policy looks"""


class BentoServers:
    """Runtime: one `bentoml serve` a version, in a home of its own.

    Two servers that share a BENTOML_HOME wipe each other's counters.
    """

    def __init__(self, folders: Folders, envoy: Envoy, gates: Gates) -> None:
        """Args:
        envoy: in front of them.
        gates: what these compare, a Bento has to hold.
        """
        self._folders, self._envoy, self._gates = folders, envoy, gates
        self._client = httpx.Client(timeout=_HEALTH_S)
        self._identified: set[str] = set()

    def check(self, version: int) -> None:
        """See that the Bento is there, whole, and that Envoy has the port or can have it."""
        if not (self._folders.bento(version) / "bento.yaml").is_file():
            known = ", ".join(map(str, self._folders.built())) or "none"
            raise UserError(
                f"no Bento of version {version} in {self._folders.bentos} (there: {known}); "
                f"run `make bento VERSION={version}`"
            )
        if self._gates.predictions or self._gates.scores:
            read_reference(self._folders.package(version))
        self._envoy.check()

    def deploy(self, version: int) -> None:
        server = self._server(version)
        if server.alive():
            return
        bento, log = self._folders.bento(version), self._folders.predictions(version)
        if not bento.is_dir():
            raise UserError(f"the Bento {bento} is gone; run `make bento VERSION={version}`")
        port = free_port()
        home = server.folder / "bentoml"
        home.mkdir(parents=True, exist_ok=True)
        log.mkdir(parents=True, exist_ok=True)
        server.start(
            [sys.executable, "-m", "bentoml", "serve", str(bento),
             "--host", "127.0.0.1", "--port", str(port)],
            {
                "BENTOML_HOME": str(home),
                "BENTOML_DO_NOT_TRACK": "True",
                PLACE_VARIABLE: str(log),
                FLUSH_VARIABLE: _FLUSH_S,
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
            reply = self._client.get(f"{url}{READINESS_ROUTE}")
        except httpx.HTTPError as error:
            # One that is busy answers late: that is not to be silent.
            ready = None if isinstance(error, httpx.ReadTimeout) else 0
            return self._starting(
                server, f"{type(error).__name__} at {url}{READINESS_ROUTE}", ready
            )
        if reply.status_code != 200:
            return self._starting(server, f"{url}{READINESS_ROUTE} says {reply.status_code}", 0)
        return self._identify(version, url, server)

    def stop(self, version: int) -> None:
        server = self._server(version)
        if server.alive() and self._envoy.server.alive():
            wait_until(lambda: self._envoy.idle(f"(direct-|replay-)?v{version}"), _DRAIN_S)
        server.stop()

    def end(self, version: int) -> None:
        """Without waiting for answers: nobody is let in any more."""
        self._server(version).stop()

    def versions(self) -> set[int]:
        found = self._folders.serving.glob("v*/process.json")
        return {int(file.parent.name.removeprefix("v")) for file in found}

    def port(self, version: int) -> int:
        facts = self._server(version).facts
        if facts is None:
            raise UserError(f"version {version} is not running")
        return int(facts["port"])

    def _server(self, version: int) -> Server:
        return Server(self._folders.server(version))

    def _starting(self, server: Server, what: str, ready: int | None) -> Health:
        detail = f"{what}; the end of its log:\n{server.log_tail()}"
        return Health(status="starting", detail=detail, ready=ready)

    def _identify(self, version: int, url: str, server: Server) -> Health:
        """Ready, if it says that it is the version that it should be."""
        token = (server.facts or {}).get("token", "")
        if token in self._identified:
            return Health(status="ready", ready=1)
        try:
            reply = self._client.get(f"{url}{MODEL_ROUTE}")
            says = reply.raise_for_status().json()["version"]
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            return self._starting(
                server, f"{url}{MODEL_ROUTE}: {type(error).__name__}: {error}", None
            )
        if says != version:
            return Health(
                status="failed", detail=f"the server of version {version} says it is {says}"
            )
        self._identified.add(token)
        return Health(status="ready", ready=1)
