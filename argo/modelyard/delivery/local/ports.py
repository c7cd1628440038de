"""The ports of this machine.

Everything lives in `.modelyard/` of the model repo. The data plane (Envoy and the servers)
outlives the command, so users are served between releases and while no controller runs.
"""

from pathlib import Path

from modelyard.delivery.local.data_plane import DataPlane
from modelyard.delivery.local.record import FileRecord
from modelyard.delivery.local.router import EnvoyRouter
from modelyard.delivery.local.shadow_replay import ShadowReplay
from modelyard.delivery.local.source import EnvoySource
from modelyard.delivery.policy import Local
from modelyard.delivery.ports import Ports
from modelyard.documents.layout import STATE


def local_ports(model: str, environment: Local, state: Path = STATE) -> Ports:
    """The four ports of this machine; `model` is the name of the Bentos."""
    plane = DataPlane.for_environment(model, environment, state)
    return Ports(
        router=EnvoyRouter(plane.envoy, plane.servers),
        runtime=plane.servers,
        source=EnvoySource(plane.envoy, plane.folders, environment.policy.gates),
        record=FileRecord(state),
        shadow=ShadowReplay(plane.envoy, plane.folders, environment.replay_rate),
    )
