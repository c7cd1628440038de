"""The process above the workers: one that was killed is back at once."""

from typing import Any

CHECK_S = 0.25
"""between two looks for dead workers; BentoML's supervisor looks every 10 s"""


def watch_closely() -> None:
    """Have BentoML's supervisor, which is made after this, look for dead workers often.

    In a container it would not replace one at all, and the others would serve on with
    fewer. BentoML has no setting for either, so its class of supervisors is replaced; this
    can go when it has.
    """
    from bentoml._internal.utils import circus

    if issubclass(circus.Arbiter, _Attentive):
        return

    class Attentive(_Attentive, circus.Arbiter):
        pass

    circus.Arbiter = Attentive


class _Attentive:
    def __init__(self, watchers: list[Any], *given: Any, **named: Any) -> None:
        for watcher in watchers:
            watcher.respawn = True
        super().__init__(watchers, *given, **(named | {"check_delay": CHECK_S}))  # pyrefly: ignore
