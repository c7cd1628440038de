"""The BentoML service around one model package.

BentoML brings the server, workers, tracing, `/livez`, `/readyz` and `/metrics`. The
routes of the model are a small ASGI app mounted into it, which is BentoML's own way
for routes that need their own status codes and verbs.
"""

import gc
import inspect
import json
import logging
import math
import os
import socket
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import bentoml
import click
import yaml
from bentoml.exceptions import BentoMLException
from bentoml.images import Image
from pydantic_core import from_json, to_json
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from modelyard.documents import UserError
from modelyard.serving import openapi
from modelyard.serving.encoding import Encoder, Row, RowError
from modelyard.serving.model import Model, Prediction
from modelyard.serving.package import Package, find_package
from modelyard.serving.prediction_log import PredictionLog

REQUIREMENTS = "requirements.txt"
"""beside service.py in a Bento; `modelyard.serving.build` writes it"""
ENVIRONMENT = {"BENTOML_DO_NOT_TRACK": "True", "UV_TORCH_BACKEND": "cpu"}
"""of the image; for a GPU, give another UV_TORCH_BACKEND (see uv's documentation)"""

DURATION = {"min": 0.001, "max": 60.0, "factor": 1.1}
"""edges of the latency histogram, s: a release can prove "no more than 1.2 times as slow" only
by edges that are closer than that"""

logger = logging.getLogger("bentoml.modelyard")


class Refusal(Exception):
    """An answer that is not 200: its status, its text, and the fields it is about."""

    def __init__(self, status: int, error: str, errors: list[RowError] | None = None) -> None:
        super().__init__(error)
        self.status = status
        self.errors = errors or []


class ModelService:
    """One worker's model and its routes. Override `predict` to add code around the model."""

    max_rows: ClassVar[int] = 10_000
    """rows in one request"""
    max_bytes: ClassVar[int] = 16 * 2**20
    """bytes in one request"""
    package: ClassVar[Package]

    def __init__(self) -> None:
        from modelyard.serving.metrics import Metrics

        package = self.package
        self.problem = "the model is being loaded"
        self.model: Model | None = None
        self._metrics: Metrics | None = None
        self._log: PredictionLog | None = None
        try:
            self.model = Model(package.path)
        except UserError as error:
            self.problem = str(error)
            logger.error("not ready, and will not be: %s", error)
            return
        self._metrics = Metrics(
            package.manifest.name,
            package.version,
            package.signature,
            package.path / "reference.parquet",
        )
        if folder := os.environ.get("MODELYARD_PREDICTION_LOG"):
            self._log = PredictionLog(Path(folder), package.version, self._metrics.lost)
        self.problem = ""
        # What is loaded stays: full collections that walk it cost tens of milliseconds.
        gc.collect()
        gc.freeze()
        logger.info("%s version %d is ready", package.manifest.name, package.version)

    def predict(self, rows: list[Row]) -> list[Prediction]:
        """One prediction a row, in order. The rows fit the signature. May be `async`, too."""
        assert self.model is not None
        return self.model.predict(rows)

    @bentoml.on_deployment
    @staticmethod
    def _check_port() -> None:
        """Before any worker starts: a port in use is the user's to mend, not a traceback."""
        context = click.get_current_context(silent=True)
        if context is None or not {"host", "port"} <= context.params.keys():
            return
        host, port = context.params["host"] or "127.0.0.1", context.params["port"]
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            socket.create_server((host, port), family=family).close()
        except OSError as error:
            raise BentoMLException(
                f"can't listen on {host}:{port}: {error.strerror}; "
                "stop what listens there, or choose another --port"
            ) from None

    async def __is_ready__(self) -> bool:
        return not self.problem

    @bentoml.on_shutdown
    def _close(self) -> None:
        if self._log:
            self._log.close()
        if self._metrics:
            self._metrics.close()

    async def _answer_predict(self, request: Request) -> Response:
        request_id = _request_id(request)
        try:
            return self._response(200, await self._predict(request, request_id), request_id)
        except Refusal as refusal:
            body = _error(str(refusal), refusal.errors)
            return self._response(refusal.status, body, request_id)
        except Exception:
            logger.exception("request %s failed", request_id)
            text = f"the service failed; its log has the traceback under request {request_id}"
            return self._response(500, _error(text), request_id)

    async def _predict(self, request: Request, request_id: str) -> dict[str, Any]:
        if self.model is None or self._metrics is None:
            raise Refusal(503, f"not ready: {self.problem}")
        rows = await self._rows(request, self.model.encoder)
        predictions = self.predict(rows)
        if inspect.isawaitable(predictions):
            predictions = await predictions
        scores = _scores(predictions, len(rows))
        self._metrics.observe(predictions)
        if self._log:
            self._log.put(request_id, rows, scores)
        return {"predictions": predictions, "version": self.package.version}

    async def _answer_model(self, request: Request) -> Response:
        package, request_id = self.package, _request_id(request)
        if self.problem:
            return self._response(503, _error(f"not ready: {self.problem}"), request_id)
        body = {
            "name": package.manifest.name,
            "version": package.version,
            "package": package.id,
            "task": package.signature.task,
            "signature": package.signature.model_dump(),
            "metrics": package.manifest.metrics,
            "git_commit": package.manifest.git_commit,
        }
        return self._response(200, body, request_id)

    async def _rows(self, request: Request, encoder: Encoder) -> list[Row]:
        """The rows of a request, each of which fits the signature."""
        kind = request.headers.get("content-type", "application/json").partition(";")[0].strip()
        if kind != "application/json":
            raise Refusal(415, f"content-type: application/json is wanted, not {kind[:100]}")
        content = bytearray()
        async for chunk in request.stream():
            content += chunk
            if len(content) > self.max_bytes:
                raise Refusal(413, f"the body has more than {self.max_bytes} bytes; send less rows")
        try:
            # NaN and Infinity are let through here, to be refused with their row and field.
            body = from_json(bytes(content))
        except ValueError as error:
            raise Refusal(400, f"the body is not JSON: {error}") from None
        if type(body) is not dict or body.keys() != {"rows"} or type(body["rows"]) is not list:
            raise Refusal(400, 'the body must be an object with the one key "rows", a list')
        rows = body["rows"]
        if name := _repeated_key(content, rows):
            raise Refusal(400, f"the key {name[:100]!r} stands twice in one object")
        if not rows:
            raise Refusal(422, "rows is empty: send at least one row")
        if len(rows) > self.max_rows:
            raise Refusal(413, f"{len(rows)} rows: send at most {self.max_rows} in one request")
        if errors := encoder.errors(rows):
            raise Refusal(422, _summary(errors), errors)
        return rows

    def _response(self, status: int, body: dict[str, Any], request_id: str) -> Response:
        headers = {"x-request-id": request_id, "x-model-version": str(self.package.version)}
        return Response(to_json(body), status, headers, media_type="application/json")


def service(
    *, image: Image | None = None, **settings: Any
) -> Callable[[type[ModelService]], "bentoml.Service[ModelService]"]:
    """Make a `ModelService` class a BentoML service.

    Args:
        image: what the container needs beyond Python packages (`bentoml.images.Image`).
        settings: as of `bentoml.service`: workers, resources, traffic, envs …

    Raises:
        BentoMLException: there is no model package to serve; BentoML's commands print it.
    """

    def decorate(inner: type[ModelService]) -> "bentoml.Service[ModelService]":
        folder = Path(str(sys.modules[inner.__module__].__file__)).resolve().parent
        try:
            inner.package = find_package(folder)
        except UserError as error:
            raise BentoMLException(str(error)) from None
        defaults: dict[str, Any] = {
            "name": inner.package.manifest.name,
            "workers": 1,
            "envs": [{"name": name, "value": value} for name, value in ENVIRONMENT.items()],
            # The prediction log and the metrics tell more, and cost less.
            "logging": {"access": {"enabled": False}},
            "metrics": {"enabled": True, "namespace": "bentoml_service", "duration": DURATION},
        }
        made = bentoml.service(
            image=_image(image, folder / REQUIREMENTS),
            service_class=_Service,
            **(defaults | settings),
        )(inner)
        routes = [
            Route("/predict", _call("_answer_predict"), methods=["POST"]),
            Route("/model", _call("_answer_model"), methods=["GET"]),
        ]
        made.mount_asgi_app(Starlette(routes=routes))
        return made

    return decorate


class _Service(bentoml.Service):
    """Adds the model's routes to BentoML's OpenAPI document, which leaves out mounted apps."""

    @property
    def openapi_spec(self) -> Any:
        document = super().openapi_spec.asdict()
        package: Package = self.inner.package
        document["info"]["version"] = str(package.version)
        document["paths"] |= openapi.paths(package.signature)
        document["components"]["schemas"] |= openapi.components(
            package.signature, self.inner.max_rows
        )
        return _Document(document)


class _Document(dict[str, Any]):
    """What BentoML wants of an OpenAPI specification: `asdict`, and to be dumped as YAML."""

    def asdict(self) -> dict[str, Any]:
        return dict(self)


yaml.add_representer(_Document, lambda dumper, document: dumper.represent_dict(document))


def _image(image: Image | None, requirements: Path) -> Image | None:
    """In a Bento's build context, the image with its pinned requirements; else none is needed."""
    if not requirements.is_file():
        return image
    image = image or Image(python_version=f"{sys.version_info.major}.{sys.version_info.minor}")
    # The file is the whole closure, pinned: BentoML must not resolve it a second time.
    image.lock_python_packages = False
    # All of it comes as wheels: no compiler and no git, which BentoML would install first.
    del image.commands[0]
    image.distro = ""
    return image.python_packages(*requirements.read_text().splitlines()).build_include("wheels")


def _call(method: str) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        return await getattr(bentoml.get_current_service(), method)(request)

    return endpoint


def _request_id(request: Request) -> str:
    given = request.headers.get("x-request-id", "")
    fits = 0 < len(given) <= 128 and given.isascii() and given.isprintable()
    return given if fits else uuid.uuid4().hex


def _repeated_key(content: bytes | bytearray, rows: list[Any]) -> str | None:
    """A key that an object of the body has twice: the parser has kept the last of them.

    A key brings a colon. With no more colons than keys there is none, and a second,
    slower parsing is saved.
    """
    if content.count(b":") == 1 + sum(len(row) for row in rows if type(row) is dict):
        return None
    found: list[str] = []

    def look(pairs: list[tuple[str, Any]]) -> None:
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                found.append(name)
            seen.add(name)

    # Numbers stay text: what is wrong with one is said of its row and field.
    json.loads(content, object_pairs_hook=look, parse_int=str)
    return found[0] if found else None


def _scores(predictions: list[Prediction], rows: int) -> list[float | list[float]]:
    """The scores, if there is a finite one for each row."""
    if len(predictions) != rows:
        raise ValueError(f"predict gave {len(predictions)} predictions for {rows} rows")
    scores = [p["score"] for p in predictions]
    for row, score in enumerate(scores):
        if not all(map(math.isfinite, score if isinstance(score, list) else [score])):
            raise ValueError(f"row {row} scores {score}")
    return scores


def _summary(errors: list[RowError]) -> str:
    row, field, message = errors[0]
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return f"row {row}: {field}{': ' if field else ''}{message}{more}"


def _error(text: str, errors: list[RowError] | None = None) -> dict[str, Any]:
    return {"error": text, "errors": [e._asdict() for e in errors or []]}
