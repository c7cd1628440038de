"""An input of the signature as a type of each notation that serving speaks.

Their bounds, categories and nulls are the signature's; what a type cannot say is checked after.
"""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from modelyard.documents.signature import Input, Number

if TYPE_CHECKING:
    import pyarrow as pa


def json_type(given: Input) -> Any:
    """As a type that msgspec checks while it parses: no value of it has to be checked again."""
    import msgspec

    if isinstance(given, Number):
        whole = 1 if given.integer else None
        meta = msgspec.Meta(ge=given.low, le=given.high, multiple_of=whole)
        kind: Any = Annotated[float, meta]
    else:
        kind = str if given.open else Literal[given.values]  # pyrefly: ignore[invalid-literal]
    return kind | None if given.nullable else kind


def arrow_type(given: Input) -> "pa.DataType":
    """As a column's type in what serving reads or writes itself."""
    import pyarrow as pa

    return pa.float64() if isinstance(given, Number) else pa.string()


def openapi_schema(given: Input) -> dict[str, Any]:
    """As a schema of OpenAPI 3.0."""
    if isinstance(given, Number):
        schema: dict[str, Any] = {"type": "integer" if given.integer else "number"}
        schema["minimum"], schema["maximum"] = given.low, given.high
        if given.unit:
            schema["description"] = given.unit
    else:
        schema = {"type": "string"}
        if given.open:
            schema["description"] = f"known: {', '.join(given.values)}"
        else:
            # OpenAPI 3.0: null must be listed, too, where an enum is nullable.
            schema["enum"] = [*given.values, *([None] if given.nullable else [])]
    if given.nullable:
        schema["nullable"] = True
    return schema
