"""BentoML's settings of a service, and the middleware that they ask for, as it acts on them.

Relies on: `BentoMLContainer.config` (what code, $BENTOML_CONFIG and defaults come to), the count of
CPUs in `bentoml._internal.resource`, a service object's `bento_service`, and the names of the
middleware that is there by default.
Upstream: none known; a service can ask for none of its own settings. That the default middleware
is slow: bentoml/BentoML#3431 (closed).
"""

from typing import Any


def settings_of(service: object) -> dict[str, Any]:
    """A service's settings as BentoML acts on them: from its code, $BENTOML_CONFIG, defaults."""
    from bentoml._internal.configuration.containers import BentoMLContainer

    name = service.bento_service.name  # pyrefly: ignore[missing-attribute]
    return BentoMLContainer.config.services[name].get()


def worker_count(settings: dict[str, Any]) -> int:
    """How many BentoML starts; by its own count of CPUs, which a container's limit bounds."""
    from bentoml._internal.resource import system_resources

    workers = settings["workers"] or 1
    return int(system_resources()["cpu"]) or 1 if workers == "cpu_count" else workers


def asked_for(middleware: Any) -> bool:
    """Whether this class of middleware is there by a setting, rather than by default."""
    from bentoml._internal.configuration.containers import BentoMLContainer

    if middleware.__name__ == "OpenTelemetryMiddleware":
        return bool(BentoMLContainer.config.tracing.sample_rate.get())
    replaced = (
        "RunnerTrafficMetricsMiddleware",
        "TimeoutMiddleware",
        "MaxConcurrencyMiddleware",
        "ContextMiddleware",
    )
    return middleware.__name__ not in replaced
