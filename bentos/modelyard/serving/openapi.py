"""The OpenAPI document of a model's two routes, made from its signature."""

from typing import Any

from modelyard.documents import Signature
from modelyard.documents.signature import Input, Number

SCHEMAS = "#/components/schemas/"
REQUEST_ID = {
    "name": "x-request-id",
    "in": "header",
    "required": False,
    "description": "Printable, at most 128 characters; made where it is missing. Echoed.",
    "schema": {"type": "string"},
}
REFUSALS = {
    "400": "The body is not JSON, or not an object with `rows`.",
    "413": "Too many bytes or rows.",
    "415": "The content type is not JSON.",
    "422": "A row does not fit the signature; `errors` names row and field.",
    "500": "The service failed; its log has the traceback under the request id.",
    "503": "The model is not ready.",
}


def components(signature: Signature, max_rows: int) -> dict[str, Any]:
    """The schemas `Row`, `PredictRequest`, `Prediction`, `PredictResponse` and `Error`."""
    row: dict[str, Any] = {
        "type": "object",
        "additionalProperties": False,
        "required": [i.name for i in signature.inputs],
        "properties": {i.name: _field(i) for i in signature.inputs},
    }
    if signature.example:
        row["example"] = signature.example
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
    return {
        "Row": row,
        "PredictRequest": _object(
            rows={"type": "array", "minItems": 1, "maxItems": max_rows, "items": _ref("Row")}
        )
        | {"additionalProperties": False},
        "Prediction": _prediction(signature),
        "PredictResponse": _object(
            predictions={"type": "array", "items": _ref("Prediction")}, version=version
        ),
        "Error": _object(error={"type": "string"}, errors={"type": "array", "items": error}),
    }


def paths(signature: Signature) -> dict[str, Any]:
    """`POST /predict` and `GET /model`."""
    failures = {code: _answer(text, _ref("Error")) for code, text in REFUSALS.items()}
    body: dict[str, Any] = {"schema": _ref("PredictRequest")}
    if signature.example:
        body["example"] = {"rows": [signature.example]}
    return {
        "/predict": {
            "post": {
                "operationId": "predict",
                "tags": ["Service APIs"],
                "summary": f"Predict {signature.target} for one row or many",
                "parameters": [REQUEST_ID],
                "requestBody": {"required": True, "content": {"application/json": body}},
                "responses": {
                    "200": _answer("One prediction a row, in order", _ref("PredictResponse")),
                    **failures,
                },
            }
        },
        "/model": {
            "get": {
                "operationId": "model",
                "tags": ["Service APIs"],
                "summary": "What is served: name, version, signature, metrics, commit",
                "responses": {
                    "200": _answer("The model", {"type": "object"}),
                    "503": failures["503"],
                },
            }
        },
    }


def _field(field: Input) -> dict[str, Any]:
    if isinstance(field, Number):
        schema: dict[str, Any] = {"type": "integer" if field.integer else "number"}
        if field.minimum is not None:
            schema["minimum"] = field.minimum
        if field.maximum is not None:
            schema["maximum"] = field.maximum
        if field.unit:
            schema["description"] = field.unit
    else:
        schema = {"type": "string"}
        if field.open:
            schema["description"] = f"known: {', '.join(field.values)}"
        else:
            # OpenAPI 3.0: null must be listed, too, where an enum is nullable.
            schema["enum"] = [*field.values, *([None] if field.nullable else [])]
    if field.nullable:
        schema["nullable"] = True
    return schema


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


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": SCHEMAS + name}


def _answer(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}
