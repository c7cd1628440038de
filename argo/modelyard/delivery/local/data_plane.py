"""What users' requests pass through on this machine. It outlives the command that starts it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from modelyard.delivery.local.envoy.process import Envoy
from modelyard.delivery.local.folders import Folders
from modelyard.delivery.local.servers import BentoServers
from modelyard.delivery.policy import Local
from modelyard.documents.layout import STATE


@dataclass(frozen=True)
class DataPlane:
    """Envoy, the servers behind it, and where both have their files."""

    folders: Folders
    envoy: Envoy
    servers: BentoServers

    @classmethod
    def for_environment(cls, model: str, environment: Local, state: Path = STATE) -> Self:
        """Started or not; `model` is the name of the Bentos."""
        folders = Folders(model, state)
        envoy = Envoy(folders.envoy, environment.port)
        return cls(folders, envoy, BentoServers(folders, envoy, environment.policy.gates))

    def shut_down(self) -> None:
        """End everything: first the way in, then the servers."""
        self.envoy.stop()
        for version in sorted(self.servers.versions()):
            self.servers.end(version)
