"""Parameters of paths and queries, and headers."""

from __future__ import annotations

import re
from typing import Any

from app.openapi.operations import Operation
from app.openapi.schemas import Schema, SchemaMaker
from app.routes import catalog

_PATH_TEXTS = {
    "model_id": "A model's id, or another name that people use for it; slashes are part of it.",
    "gateway": "The provider, or `all`.",
    "request_id": "The `x-request-id` of the response, the provider's id, or the `x-request-id` that the client sent.",
    "id": "The id, as the list shows it.",
    "group": "The id or the name.",
    "holder": "The id or the name.",
    "name": "The name, in any case.",
}

HEADERS: dict[str, Any] = {
    name: {"description": text, "schema": schema}
    for name, text, schema in (
        ("x-request-id", "The gateway's id of the request, under which its record is found.", {"type": "string"}),
        ("retry-after", "Seconds after which a retry makes sense.", {"type": "integer"}),
        ("x-should-retry", "`false`: no retry helps until someone has acted.", {"enum": ["true", "false"]}),
        ("x-gateway-limit", "The limit that refused the request, and until when.", {"type": "string"}),
        ("x-gateway-provider", "The provider that served the request.", {"type": "string"}),
        ("x-gateway-model", "The model that served it, as the provider names it.", {"type": "string"}),
        ("x-gateway-dropped-params", "Fields that were left out for the provider.", {"type": "string"}),
        ("x-gateway-applied-params", "What was rewritten for the provider.", {"type": "string"}),
    )
}


IDEMPOTENCY_KEY: dict[str, Any] = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Repetitions with the same value get the same answer and are not paid for again, if "
    "IDEMPOTENCY_HOURS is set; /docs/idempotency explains it.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
}


def describe_path(rule: str) -> list[dict[str, Any]]:
    """Returns the parameters of a route's path."""
    return [_make_path_parameter(name, converter) for converter, name in re.findall(r"<(?:(\w+):)?(\w+)>", rule)]


def _make_path_parameter(name: str, converter: str) -> dict[str, Any]:
    schema: Schema = {"type": "integer", "minimum": 0} if converter == "int" else {"type": "string", "minLength": 1}
    if name == "gateway":
        schema = {"type": "string", "enum": list(catalog.GATEWAYS)}
    return {"name": name, "in": "path", "required": True, "description": _PATH_TEXTS[name], "schema": schema}


def make_parameters(operation: Operation, schemas: SchemaMaker) -> list[dict[str, Any]]:
    """Returns the parameters of an operation's query."""
    if operation.query is None:
        return []
    struct = schemas.make_inline(operation.query)
    required = struct.get("required", [])
    return [
        {
            "name": name,
            "in": "query",
            **({"required": True} if name in required else {}),
            **({"description": text} if (text := schema.pop("description", None)) else {}),
            **({"style": "form", "explode": False} if "array" in schema["type"] else {}),
            "schema": _without_null(schema),
        }
        for name, schema in struct["properties"].items()
    ]


def _without_null(schema: Schema) -> Schema:
    """Returns the schema without null, which a query cannot have; a time may also be a day."""
    made = dict(schema)
    if isinstance(made.get("type"), list):
        (made["type"],) = [kind for kind in made["type"] if kind != "null"]
    if "enum" in made:
        made["enum"] = [choice for choice in made["enum"] if choice is not None]
    if made.get("format") == "date-time":
        return {"type": "string", "anyOf": [{"format": "date-time"}, {"format": "date"}]}
    return made
