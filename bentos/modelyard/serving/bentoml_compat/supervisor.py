"""The process above the workers: it opens the port, and replaces one that was killed at once.

Relies on: `bentoml._internal.utils.circus.Arbiter`, the class that `bentoml serve` makes its
supervisor of, with its `check_delay`, `sockets` and watchers' `respawn`; the name of the socket.
Upstream: none known. circus-tent/circus#1103 asks for the opposite, an end with the worker.
"""

import socket
from typing import Any

from bentoml.exceptions import BentoMLException

CHECK_S = 0.25
"""between two looks for dead workers; BentoML's supervisor looks every 10 s"""


def supervise() -> None:
    """Have BentoML's supervisor, which is made after this, look for dead workers often.

    In a container it would not replace one at all, and the others would serve on with
    fewer. A port that it can't have would be a traceback. BentoML has no setting for these,
    so its class of supervisors is replaced; this can go when it has.
    """
    from bentoml._internal.utils import circus

    if issubclass(circus.Arbiter, _Supervisor):
        return

    class Supervisor(_Supervisor, circus.Arbiter):
        pass

    circus.Arbiter = Supervisor


class _Supervisor:
    sockets: dict[str, Any]

    def __init__(self, watchers: list[Any], *given: Any, **named: Any) -> None:
        for watcher in watchers:
            watcher.respawn = True
        super().__init__(watchers, *given, **(named | {"check_delay": CHECK_S}))  # pyrefly: ignore

    def initialize(self) -> None:
        """Before any worker starts: a port in use is the user's to mend, not a traceback.

        Host and port come from the command line, variables, a configuration file, or are
        BentoML's own; here is what is opened in the end, tried on a socket of the same kind.
        """
        from _bentoml_impl.server.serving import API_SERVER_NAME

        chosen = self.sockets[API_SERVER_NAME]
        try:
            with socket.socket(chosen.family) as tried:
                tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                tried.bind((chosen.host, chosen.port))
                tried.listen()
        except OSError as error:
            host = f"[{chosen.host}]" if ":" in chosen.host else chosen.host
            raise BentoMLException(
                f"can't listen on {host}:{chosen.port}: {error.strerror}; "
                "stop what listens there, or choose another --port or --host"
            ) from None
        super().initialize()  # pyrefly: ignore[missing-attribute]
