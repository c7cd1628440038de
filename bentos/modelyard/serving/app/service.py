"""The BentoML service around one model package.

BentoML brings the server, workers, `/livez`, `/readyz` and `/metrics`, the Bento and the
image. The routes of the model are answered in front of its middleware (see `api`).
"""

import asyncio
import gc
import logging
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import bentoml
from bentoml.exceptions import BentoMLException
from bentoml.images import Image

from modelyard.documents import UserError
from modelyard.documents.http import PREDICT_ROUTE, VERSION_HEADER
from modelyard.documents.metrics import NAMESPACE
from modelyard.serving.api import openapi
from modelyard.serving.api.limits import (
    BODY_S,
    DRAINING_BODY_S,
    MOST,
    Admission,
    most_waiting,
)
from modelyard.serving.app.drain import drain_s
from modelyard.serving.bentoml_compat.configuration import asked_for, settings_of, worker_count
from modelyard.serving.bentoml_compat.document import Document
from modelyard.serving.bentoml_compat.image import serving_image
from modelyard.serving.bentoml_compat.sigterm import on_sigterm
from modelyard.serving.bentoml_compat.supervisor import supervise
from modelyard.serving.bentoml_compat.versions import check_versions
from modelyard.serving.codec.types import Prediction, Row
from modelyard.serving.observability import buckets
from modelyard.serving.package import Package, find_package

if TYPE_CHECKING:
    from modelyard.serving.inference.model import Model
    from modelyard.serving.inference.predictor import Predictor

ENVIRONMENT = {
    "BENTOML_DO_NOT_TRACK": "True",
    # Arrow's own allocators keep what was freed; this one gives it back (see `memory`).
    "ARROW_DEFAULT_MEMORY_POOL": "system",
}
"""of the workers and of the image"""
FLUSH_S = 1.0
"""between two times that the metrics' files get what was counted"""
SWITCH_S = 0.0001
"""the longest that another thread keeps the loop from Python's lock"""

logger = logging.getLogger("bentoml.modelyard")


class ModelService:
    """One worker's model and its routes. Override `predict` to add code around the model."""

    max_rows: ClassVar[int] = 10_000
    """rows in one request"""
    max_bytes: ClassVar[int] = 16 * 2**20
    """bytes in one request"""
    max_waiting: int | None = None
    """requests of one worker that may wait; `traffic={"max_concurrency": …}` sets it, too.
    None: what is answered in 10 ms, from 16 to 128; 128 where `predict` is overridden"""
    package: ClassVar[Package]

    def __init__(self) -> None:
        self.problem = "the model is being loaded"
        self.draining = False
        self.admission = Admission(self.max_waiting or MOST)
        self.version_header = (VERSION_HEADER.encode(), str(self.package.version).encode())
        self.predictor: Predictor | None = None

    @property
    def model(self) -> "Model":
        """The loaded model."""
        assert self.predictor is not None, self.problem
        return self.predictor.model

    def predict(self, rows: list[Row]) -> list[Prediction]:
        """One prediction a row, in order. The rows fit the signature. May be `async`, too.

        Without an override, requests that come together are scored together. An override
        is called once a request, one after the other where it is not `async`.
        """
        return self.model.predict(rows)

    @bentoml.on_startup
    async def _start(self) -> None:
        """In the worker, before it listens: load the model and have it score once."""
        from modelyard.serving.inference.predictor import Predictor

        settings = settings_of(self)
        traffic = settings["traffic"]
        code = None if type(self).predict is ModelService.predict else self.predict
        try:
            drain = drain_s()
            self.predictor = Predictor(self.package, self.max_rows, code, traffic["timeout"])
        except UserError as error:
            self.problem = str(error)
            logger.error("not ready, and will not be: %s", error)
            return
        if most := traffic["max_concurrency"]:
            self.admission.most = math.ceil(most / worker_count(settings))
        elif not self.max_waiting and not code:
            self.admission.most = most_waiting(self.predictor.row_s)
        self.admission.shrinks = code is None
        sys.setswitchinterval(SWITCH_S)
        self._flusher = asyncio.create_task(self._flush())
        on_sigterm(self._drain, drain)
        # What is loaded stays: full collections that walk it cost tens of milliseconds.
        gc.collect()
        gc.freeze()
        gc.set_threshold(10_000, 20, 50)
        self.problem = ""
        logger.info("%s version %d is ready", self.package.manifest.name, self.package.version)

    @bentoml.on_deployment
    @staticmethod
    def _supervise() -> None:
        supervise()

    async def __is_ready__(self) -> bool:
        return not self.problem and not self.draining

    def _drain(self) -> None:
        self.draining = True

    @bentoml.on_shutdown
    async def _close(self) -> None:
        if self.predictor:
            self._flusher.cancel()
            await self.predictor.close()
            self.flush_metrics()
            self.predictor.metrics.close()

    def flush_metrics(self) -> None:
        """Give Prometheus what was counted since the last time."""
        if self.predictor:
            self.predictor.metrics.flush(self.admission.waiting)

    async def _flush(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            self.admission.give_up(DRAINING_BODY_S if self.draining else BODY_S)
            self.flush_metrics()

    def describe(self) -> dict[str, Any]:
        """What `/model` tells."""
        package = self.package
        return {
            "name": package.manifest.name,
            "version": package.version,
            "package": package.id,
            "task": package.signature.task,
            "signature": package.signature.model_dump(),
            "metrics": package.manifest.metrics,
            "git_commit": package.manifest.git_commit,
        }


def service(
    *, image: Image | None = None, **settings: Any
) -> Callable[[type[ModelService]], "bentoml.Service[ModelService]"]:
    """Make a `ModelService` class a BentoML service.

    Args:
        image: what the container needs beyond Python packages (`bentoml.images.Image`).
        settings: as of `bentoml.service`: workers, resources, traffic, envs …

    Raises:
        BentoMLException: there is no model package to serve, or BentoML, uvicorn or
            prometheus_client have another version than was tried; BentoML's commands print it.
    """

    def decorate(inner: type[ModelService]) -> "bentoml.Service[ModelService]":
        folder = Path(str(sys.modules[inner.__module__].__file__)).resolve().parent
        try:
            check_versions()
            inner.package = find_package(folder)
        except UserError as error:
            raise BentoMLException(str(error)) from None
        own = {name: {"name": name, "value": value} for name, value in ENVIRONMENT.items()}
        theirs = {variable["name"]: variable for variable in settings.get("envs", ())}
        settings["envs"] = [*(own | theirs).values()]
        defaults: dict[str, Any] = {
            "name": inner.package.manifest.name,
            "workers": 1,
            # The prediction log and the metrics tell more, and cost less.
            "logging": {"access": {"enabled": False}},
            "metrics": {
                "enabled": True,
                "namespace": NAMESPACE,
                "duration": {"buckets": buckets.DURATION_S},
            },
        }
        return bentoml.service(
            image=serving_image(image, folder),
            service_class=_Service,
            **(defaults | settings),
        )(inner)

    return decorate


class _Service(bentoml.Service):
    """Adds the model's routes to BentoML's OpenAPI document, which leaves out mounted apps."""

    def to_asgi(self, is_main: bool = True) -> Any:
        """BentoML's app behind the model's routes.

        Middleware that a team asked for (its own, CORS, access log, tracing that samples)
        holds for the model's routes, too.
        """
        from modelyard.serving.api.dispatch import App, Dispatch
        from modelyard.serving.api.routes import Routes, refusal
        from modelyard.serving.bentoml_compat.protocol import install
        from modelyard.serving.bentoml_compat.request_metrics import by_route

        app: Any = super().to_asgi(is_main)
        prefix = (self.path_prefix or "").rstrip("/")
        routes: App = Routes(prefix)
        asked = [middleware for middleware in app.user_middleware if asked_for(middleware.cls)]
        for middleware in reversed(asked):
            routes = middleware.cls(routes, *middleware.args, **middleware.kwargs)
        # Middleware that was asked for would miss the refusals.
        install(prefix + PREDICT_ROUTE, None if asked else refusal)
        app.user_middleware = [by_route(middleware) for middleware in app.user_middleware]
        return Dispatch(app, routes, prefix)

    @property
    def openapi_spec(self) -> Any:
        document = super().openapi_spec.asdict()
        package: Package = self.inner.package
        document["info"]["version"] = str(package.version)
        document["paths"] |= openapi.paths(package.signature)
        document["components"]["schemas"] |= openapi.components(
            package.signature, self.inner.max_rows
        )
        return Document(document)
