"""The OpenAPI document of a model's two routes, made from its signature."""

from typing import Any

from modelyard.documents import Signature
from modelyard.documents.http import (
    MODEL_ROUTE,
    PREDICT_ROUTE,
    REQUEST_ID_HEADER,
    VERSION_HEADER,
)
from modelyard.serving.codec.schemas import openapi_schema
from modelyard.serving.codec.types import ARROW, JSON

SCHEMAS = "#/components/schemas/"
REQUEST_ID = {
    "name": REQUEST_ID_HEADER,
    "in": "header",
    "required": False,
    "description": "Printable, at most 128 characters; made where it is missing. Echoed.",
    "schema": {"type": "string"},
}
HEADERS = {
    REQUEST_ID_HEADER: {"required": True, "schema": {"type": "string"}},
    VERSION_HEADER: {"required": True, "schema": {"type": "integer"}},
}
REFUSALS = {
    "400": "The body is not of its content type, or has neither `rows` nor `columns`.",
    "405": "The route takes another method.",
    "408": "The body was not all there after a minute.",
    "413": "Too many bytes or rows.",
    "415": "The content type is neither JSON nor an Arrow stream, or the body is compressed.",
    "422": "A row does not fit the signature; `errors` names row and field.",
    "500": "The service failed; its log has the traceback under the request id.",
    "503": "The model is not ready, or too many requests wait: then `retry-after` tells when to "
    "try again.",
    "504": "The service's own code took too long.",
}


def components(signature: Signature, max_rows: int) -> dict[str, Any]:
    """The schemas of both bodies of `/predict` and their parts, of `/model` and of refusals."""
    row: dict[str, Any] = {
        "type": "object",
        "additionalProperties": False,
        "required": [i.name for i in signature.inputs],
        "properties": {i.name: openapi_schema(i) for i in signature.inputs},
    }
    columns: dict[str, Any] = {
        "type": "object",
        "additionalProperties": False,
        "required": [i.name for i in signature.inputs],
        "description": "Arrays of the same length.",
        "properties": {i.name: _array(openapi_schema(i), max_rows) for i in signature.inputs},
    }
    if signature.example:
        row["example"] = signature.example
        columns["example"] = {name: [value] for name, value in signature.example.items()}
    version = {"type": "integer", "description": "the model's version"}
    error = {
        "type": "object",
        "required": ["row", "field", "message"],
        "properties": {
            "row": {"type": "integer"},
            "field": {"type": "string"},
            "message": {"type": "string"},
        },
    }
    prediction = _prediction(signature)
    scored = {
        name: {"type": "array", "items": kind} for name, kind in prediction["properties"].items()
    }
    return {
        "Row": row,
        "Columns": columns,
        "PredictRequest": {
            "oneOf": [
                _only(
                    rows={
                        "type": "array",
                        "minItems": 1,
                        "maxItems": max_rows,
                        "items": _ref("Row"),
                    }
                ),
                _only(columns=_ref("Columns")),
            ]
        },
        "Prediction": prediction,
        "PredictResponse": {
            "oneOf": [
                _object(
                    predictions={"type": "array", "items": _ref("Prediction")}, version=version
                ),
                _object(columns=_object(**scored), version=version),
            ]
        },
        "Model": _object(
            name={"type": "string"},
            version=version,
            package={"type": "string", "description": "SHA-256 of the package's manifest"},
            task={"type": "string", "enum": ["binary", "multiclass", "regression"]},
            signature={"type": "object"},
            metrics={"type": "object", "additionalProperties": {"type": "number"}},
            git_commit={"type": "string"},
        ),
        "Error": _object(error={"type": "string"}, errors={"type": "array", "items": error}),
    }


def paths(signature: Signature) -> dict[str, Any]:
    """`POST /predict` and `GET /model`."""
    failures = {code: _answer(text, _ref("Error")) for code, text in REFUSALS.items()}
    failures["503"]["headers"] = HEADERS | {"retry-after": {"schema": {"type": "integer"}}}
    failures["405"]["headers"] = HEADERS | {"allow": {"schema": {"type": "string"}}}
    body: dict[str, Any] = {"schema": _ref("PredictRequest")}
    if signature.example:
        columns = {name: [value] for name, value in signature.example.items()}
        body["examples"] = {
            "one row": {"value": {"rows": [signature.example]}},
            "many rows": {"value": {"rows": [signature.example] * 2}},
            "columns": {"value": {"columns": columns}},
        }
    stream = {
        "schema": {"type": "string", "format": "binary"},
    }
    answer = _answer(
        "One prediction a row, in order, in the request's form", _ref("PredictResponse")
    )
    answer["content"][ARROW] = stream
    return {
        PREDICT_ROUTE: {
            "post": {
                "operationId": "predict",
                "tags": ["Service APIs"],
                "summary": f"Predict {signature.target} for one row or many",
                "parameters": [REQUEST_ID],
                "requestBody": {"required": True, "content": {JSON: body, ARROW: stream}},
                "responses": {"200": answer, **failures},
            }
        },
        MODEL_ROUTE: {
            "get": {
                "operationId": "model",
                "tags": ["Service APIs"],
                "summary": "What is served: name, version, signature, metrics, commit",
                "parameters": [REQUEST_ID],
                "responses": {
                    "200": _answer("The model", _ref("Model")),
                    "405": failures["405"],
                    "503": failures["503"],
                },
            }
        },
    }


def _prediction(signature: Signature) -> dict[str, Any]:
    if signature.task == "regression":
        return _object(score={"type": "number", "description": signature.target})
    score: dict[str, Any] = {"type": "number", "minimum": 0, "maximum": 1}
    if signature.task == "binary":
        score["description"] = f"the probability of {signature.classes[1]}"
    else:
        score = {
            "type": "array",
            "description": f"the probabilities of {', '.join(signature.classes)}",
            "items": score,
        }
    return _object(score=score, **{"class": {"type": "string", "enum": [*signature.classes]}})


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": [*properties], "properties": properties}


def _array(items: dict[str, Any], most: int) -> dict[str, Any]:
    return {"type": "array", "minItems": 1, "maxItems": most, "items": items}


def _only(**properties: dict[str, Any]) -> dict[str, Any]:
    return _object(**properties) | {"additionalProperties": False}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": SCHEMAS + name}


def _answer(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "description": description,
        "headers": HEADERS,
        "content": {JSON: {"schema": schema}},
    }
