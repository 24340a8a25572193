"""The OpenAPI document: assembled from the routes, the table of operations, and the Structs in it."""

from __future__ import annotations

import re
from inspect import isfunction
from typing import Any, get_type_hints

from flask import Flask

from app.openapi.answers import AnthropicError, Error
from app.openapi.error_responses import find_error_types, make_error_responses
from app.openapi.examples import load_examples
from app.openapi.inference_answers import ChatChunk
from app.openapi.operations import EVENTS, JSON, OPERATIONS, TEXT, Operation
from app.openapi.parameters import HEADERS, IDEMPOTENCY_KEY, describe_path, make_parameters
from app.openapi.schemas import Schema, SchemaMaker, describe
from app.routes import BLUEPRINTS
from app.runtime import get_settings
from app.web import Access

# The version of the API; it counts changes that callers must follow.
API_VERSION = "1.0.0"

_ACCESS: dict[str, Access] = {blueprint.name: access for blueprint, access in BLUEPRINTS}
_TAGS = {
    "inference": "Inference",
    "token_count": "Inference",
    "models": "Models",
    "catalog": "Models",
    "catalog_changes": "Models",
    "offers": "Models",
    "own_key": "Keys and limits",
    "keys": "Keys and limits",
    "holders": "Keys and limits",
    "groups": "Keys and limits",
    "aliases": "Models",
    "budgets": "Keys and limits",
    "activity": "Records and statistics",
    "stats": "Records and statistics",
    "bill": "Records and statistics",
    "workers": "The gateway itself",
    "diagnostics": "The gateway itself",
    "health": "The gateway itself",
    "metrics": "The gateway itself",
    "openapi": "The gateway itself",
}
_BEARER: dict[str, list[str]] = {"bearer": []}
_API_KEY: dict[str, list[str]] = {"apiKey": []}
_ANTHROPIC = "/v1/messages"
# Bodies are refused for their size, their coding, or their transfer time.
_OF_BODIES = (400, 408, 413, 415)
_OF_INFERENCE = (402, 403, 404, 409, 422, 429, 500, 502, 503, 504)
_WITH_ETAGS = {"catalog", "offers", "openapi"}

DESCRIPTION = """\
The API of a self-hosted gateway for language models. This document is made from the code that checks requests.

**Keys.** Send the gateway key as `Authorization: Bearer …` or as `x-api-key`; the bearer
token wins.

**Errors** have one form, `{"error": {"message", "type", "param", "code"}}`, in streams too; below `/v1/messages`, and
for clients that send `anthropic-version`, they have Anthropic's. Besides those that are listed with an operation:

- 404 `not_found_error`: there is no such path;
- 405 `invalid_request_error`: the path has no such method; `allow` lists those that it has;
- 414 `invalid_request_error`: the request line, with path and query, has more than 4,094 bytes;
- 431: the headers are too large;
- 503 `unavailable_error` or `gateway_shutdown`: the gateway is overloaded, its database is away, or it is stopping.

Every response has the header `x-request-id`.

**Queries.** Below `/api` a parameter that is unknown, or given twice, is a 400. Below `/v1` unknown parameters are
ignored, because SDKs add their own.

**Dry runs.** An inference request with the header `x-gateway-dry-run: 1` is described and not sent; the answer is an
object with `"object": "gateway.dry_run"`, which `/docs/endpoints` explains.

**Streams.** With `"stream": true` in the body, the response is `text/event-stream`.
"""


def make_document(app: Flask) -> dict[str, Any]:
    """Returns the document of the API that an application serves."""
    schemas, examples = SchemaMaker(), load_examples()
    endpoints = {
        (method, rule.rule): rule.endpoint for rule in app.url_map.iter_rules() for method in rule.methods or ()
    }
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        endpoint = endpoints[operation.method, operation.path]
        made = _make_operation(app, operation, endpoint, schemas, examples.get(operation.id, {}))
        paths.setdefault(to_template(operation.path), {})[operation.method.lower()] = made
    for kind in (Error, AnthropicError, ChatChunk):
        schemas.make(kind, "answer")
    types = schemas.components["ErrorDetails"]["properties"]["type"]
    types["enum"] = find_error_types()
    return {
        "openapi": "3.1.0",
        "info": {"title": "LLM gateway", "version": API_VERSION, "description": DESCRIPTION},
        "servers": [{"url": "/"}],
        "tags": [{"name": name} for name in dict.fromkeys(_TAGS.values())],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.components.items())),
            "responses": make_error_responses({"Error": "Error", "AnthropicError": "AnthropicError"}),
            "headers": HEADERS,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "A gateway key."},
                "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "The same."},
            },
        },
    }


def to_template(rule: str) -> str:
    """Returns a route's path in OpenAPI's form: "/v1/models/{model_id}"."""
    return re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule)


def _make_operation(
    app: Flask, operation: Operation, endpoint: str, schemas: SchemaMaker, example: dict[str, Any]
) -> dict[str, Any]:
    blueprint = endpoint.partition(".")[0]
    access = _ACCESS.get(blueprint, "open")
    summary = operation.summary or describe(app.view_functions[endpoint])
    made: dict[str, Any] = {
        "operationId": operation.id,
        "tags": [_TAGS[blueprint]],
        "summary": re.split(r"[.;:] ", summary)[0].rstrip("."),
        "description": summary.rstrip(".") + "." + _describe_access(access),
        "security": _make_security(access),
    }
    parameters = [*describe_path(operation.path), *make_parameters(operation, schemas)]
    if operation.is_inference:
        parameters.append(IDEMPOTENCY_KEY)
    if parameters:
        made["parameters"] = parameters
    if operation.body is not None:
        content: Schema = {"schema": schemas.make(operation.body, "request")}
        if "body" in example:
            content["example"] = example["body"]
        made["requestBody"] = {"required": True, "content": {JSON: content}}
    made["responses"] = _make_responses(operation, blueprint, access, schemas, example)
    return made


def _make_security(access: Access) -> list[dict[str, list[str]]]:
    if access == "open":
        return []
    is_optional = access == "operator" or (access == "public_stats" and get_settings().public_stats)
    return [_BEARER, _API_KEY, *([{}] if is_optional else [])]


def _describe_access(access: Access) -> str:
    if access == "operators_key":
        return " Needs an operator's key."
    if access == "operator":
        return " For programs on the gateway's machine, and for others with an operator's key or METRICS_TOKEN."
    if access == "public_stats":
        return (
            " Without a key it shows all keys together, because PUBLIC_STATS is set."
            if get_settings().public_stats
            else " Needs a key, because PUBLIC_STATS is not set."
        )
    return ""


def _make_responses(
    operation: Operation, blueprint: str, access: Access, schemas: SchemaMaker, example: dict[str, Any]
) -> dict[str, Any]:
    names = {"x-request-id", *(_INFERENCE_HEADERS if operation.is_inference else ())}
    success = {
        "description": _describe_success(operation),
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in sorted(names)},
        "content": _make_content(operation, schemas, example),
    }
    made = {str(operation.status): success}
    if blueprint in _WITH_ETAGS:
        made["304"] = {"description": "The client has it already, as `if-none-match` says."}
    if operation.id == "is_ready":
        made["503"] = success | {"description": "The process should get no requests now."}
    prefix = "AnthropicError" if operation.path.startswith(_ANTHROPIC) else "Error"
    for status in sorted(_find_error_statuses(operation, access)):
        made.setdefault(str(status), {"$ref": f"#/components/responses/{prefix}{status}"})
    return made


def _make_content(operation: Operation, schemas: SchemaMaker, example: dict[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if operation.answer is not TEXT:
        kinds = operation.answer if isinstance(operation.answer, tuple) else (operation.answer,)
        made = [schemas.make(_find_type(kind), "answer") for kind in kinds]
        content[JSON] = {"schema": {"anyOf": made} if len(made) > 1 else made[0]}
    for media_type in operation.others:
        content[media_type] = {"schema": {"type": "string"}}
    if operation.events is not None:
        # Without a type: some tools take the schema for that of the whole text, others for that of each event.
        content[EVENTS] = {"schema": {"description": operation.events}}
    for media_type, shown in content.items():
        if media_type in example:
            shown["example"] = example[media_type]
    return content


_INFERENCE_HEADERS = ("x-gateway-provider", "x-gateway-model", "x-gateway-dropped-params", "x-gateway-applied-params")


def _find_type(answer: Any) -> Any:
    """Returns the type of an answer; if the answer is a function, the type of its result."""
    return get_type_hints(answer)["return"] if isfunction(answer) else answer


def _describe_success(operation: Operation) -> str:
    if operation.status == 201:
        return "It was made."
    return "A whole response, or a stream of events." if operation.events else "The response."


def _find_error_statuses(operation: Operation, access: Access) -> set[int]:
    found = {*operation.errors, 500}
    if access != "open":
        found |= {401, 503}
    if access == "operators_key":
        found.add(403)
    if operation.query is not None:
        found |= {400, 414, 503}
    if "<" in operation.path:
        found |= {404, 414, 503}
    if operation.body is not None:
        found |= set(_OF_BODIES)
    if operation.body is not None and access == "operators_key":
        found.add(404)
    if operation.is_inference:
        found |= {*_OF_INFERENCE, *([529] if operation.path.startswith(_ANTHROPIC) else [])}
    return found
