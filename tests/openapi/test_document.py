"""The OpenAPI document matches the gateway: its routes, parameters, fields, answers, errors, and examples."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import openapi_spec_validator
import pytest
from flask import Flask

from app import create_app
from app.config import load_settings
from app.openapi import OPERATIONS, to_template
from app.routes import BLUEPRINTS
from app.runtime import use_settings
from app.services.endpoints import ENDPOINTS
from tests.openapi.calls import CALLS, Call, Caller
from tests.support.chat import Seen, request
from tests.support.gateway import Gateway

ROOT = Path(__file__).resolve().parent.parent.parent
EXAMPLES = ROOT / "app" / "openapi" / "examples.json"
# Rewrites the examples instead of comparing them: UPDATE_EXAMPLES=1 make test ARGS="-n 0 tests/openapi"
UPDATES = os.environ.get("UPDATE_EXAMPLES") == "1"

_MAX_ITEMS = 2
_MAX_TEXT = 400


def make_app(**settings: str) -> Flask:
    """Returns an application in this process."""
    return create_app(load_settings(settings))


@pytest.fixture(scope="module")
def document(gateway: Gateway) -> dict[str, Any]:
    """The document of a running gateway."""
    seen = request("GET", f"{gateway.url}/openapi.json")
    assert (seen.status, seen.headers["content-type"]) == (200, "application/json")
    shown: dict[str, Any] = json.loads(seen.body)
    return shown


@pytest.fixture(scope="module")
def answered(gateway: Gateway, document: dict[str, Any]) -> list[tuple[Call, Seen]]:
    """The answers of a running gateway to CALLS."""
    caller = Caller(gateway, document)
    return [(call, caller.call(call)) for call in CALLS]


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yields (method, path, operation)."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def find_schema(document: dict[str, Any], operation: str, status: int, media_type: str) -> dict[str, Any]:
    """Returns the schema of an answer, with the components that it refers to."""
    (found,) = [each for _, _, each in operations(document) if each["operationId"] == operation]
    response = found["responses"][str(status)]
    schema = response["content"][media_type]["schema"]
    return {**schema, "components": document["components"]}


def test_the_document_is_valid_and_is_sent_once(gateway: Gateway, document: dict[str, Any]) -> None:
    assert document["openapi"] == "3.1.0"
    openapi_spec_validator.validate(document)
    seen = request("GET", f"{gateway.url}/openapi.json")
    again = request("GET", f"{gateway.url}/openapi.json", headers={"If-None-Match": seen.headers["etag"]})
    assert (again.status, again.body) == (304, b"")


def test_every_route_is_in_it_and_the_reverse(document: dict[str, Any]) -> None:
    app = make_app()
    blueprints = {blueprint.name for blueprint, _ in BLUEPRINTS} | {"openapi"}
    routes = {
        (method, to_template(rule.rule))
        for rule in app.url_map.iter_rules()
        if rule.endpoint.partition(".")[0] in blueprints
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert {(method, path) for method, path, _ in operations(document)} == routes
    assert len({operation.id for operation in OPERATIONS}) == len(OPERATIONS)
    use_settings(None)


def test_bodies_of_inference_are_those_that_are_checked(document: dict[str, Any]) -> None:
    bodies = {operation.path: operation.body for operation in OPERATIONS if operation.is_inference}
    assert bodies.keys() == {endpoint.path for endpoint in ENDPOINTS}
    for endpoint in ENDPOINTS:
        body = bodies[endpoint.path]
        assert body is not None and issubclass(body, endpoint.body)
        # Only fields without a type, which code checks, are declared again.
        checked = {field.name: str(field.type) for field in msgspec.structs.fields(endpoint.body)}
        said_again = vars(body)["__annotations__"].keys() & checked.keys()
        assert all("Any" in checked[name] for name in said_again), (endpoint.path, said_again)
        operation = document["paths"][endpoint.path]["post"]
        assert ("text/event-stream" in str(operation)) == (endpoint.stream is not None)


def test_who_may_call_is_as_the_settings_say() -> None:
    for public in ("true", "false"):
        shown = make_app(PUBLIC_STATS=public).test_client().get("/openapi.json").get_json()
        use_settings(None)
        for method, path, operation in operations(shown):
            by_key = [{"bearer": []}, {"apiKey": []}]
            expected: list[dict[str, Any]] = by_key
            if path.endswith(("/stats", "}/endpoints", "/catalog/changes")):
                expected = [*by_key, {}] if public == "true" else by_key
            elif path == "/metrics":
                expected = [*by_key, {}]
            elif not path.startswith("/v1") and not re.match(r"/v2|/api/(?!catalog|hello)", path):
                expected = []
            assert operation["security"] == expected, (method, path)


def test_the_errors_are_those_of_the_tree_and_of_the_readme(document: dict[str, Any]) -> None:
    types = document["components"]["schemas"]["ErrorDetails"]["properties"]["type"]["enum"]
    table = (ROOT / "README.md").read_text() + (ROOT / "docs" / "errors.md").read_text()
    assert set(types) == set(re.findall(r"^\| `([a-z]\w+)` \| \d", table, re.MULTILINE))


def test_parameters_are_those_that_are_read(gateway: Gateway, document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        if not path.startswith("/api/") or path in {"/api/key", "/api/hello"} or method in {"POST", "PATCH"}:
            continue
        url = gateway.url + re.sub(r"\{\w+\}", "1", path).replace("gateway/1", "gateway/all")
        seen = request(method, url + "?nonsense=1", headers=gateway.headers)
        assert (seen.status, seen.error["param"]) == (400, "nonsense"), (method, path)
        names = re.findall(r"Use: (.*)\.$", seen.error["message"])
        known = [each["name"] for each in operation.get("parameters", []) if each["in"] == "query"]
        assert ", ".join(known) == "".join(names), (method, path)
        for name in known:
            seen = request(method, f"{url}?{name}=1&{name}=1", headers=gateway.headers)
            assert (seen.status, seen.error["param"]) == (400, name), (method, path)


def test_fields_are_those_that_are_read(gateway: Gateway, document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        if "requestBody" not in operation or not path.startswith("/api/"):
            continue
        url = gateway.url + re.sub(r"\{\w+\}", "1", path)
        seen = request(method, url, headers=gateway.headers, json={"nonsense": 1})
        names = re.findall(r"The fields are: (.*)\.$", seen.error["message"])
        schema = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        assert [", ".join(document["components"]["schemas"][schema]["properties"])] == names, (method, path)


def test_answers_are_as_the_document_says(document: dict[str, Any], answered: list[tuple[Call, Seen]]) -> None:
    for call, seen in answered:
        (operation,) = [each for each in OPERATIONS if each.id == call.id]
        assert seen.status == operation.status, (call, seen.body)
        media_type = seen.headers["content-type"].partition(";")[0]
        schema = find_schema(document, call.id, seen.status, media_type)
        if media_type == "application/json":
            # The gateway's own answers have no undocumented fields; those of providers may.
            is_own = operation.path.startswith("/api/")
            validate(json.loads(seen.body), forbid_other_fields(schema) if is_own else schema)
        else:
            assert call.as_stream and media_type == "text/event-stream"
    others = {"show_metrics", "show_openapi", "watch_test_stream"}  # These have tests of their own.
    assert {call.id for call in CALLS} == {each.id for each in OPERATIONS} - others


def forbid_other_fields(schema: Any) -> Any:
    """Returns a schema that allows only the fields that it names."""
    if isinstance(schema, list):
        return [forbid_other_fields(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {name: forbid_other_fields(each) for name, each in schema.items()}
    return strict | ({"additionalProperties": False} if isinstance(schema.get("properties"), dict) else {})


def validate(shown: Any, schema: dict[str, Any]) -> None:
    """Raises a ValidationError if JSON does not match a schema, times and dates included."""
    jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker()).validate(shown)


def test_errors_are_as_the_document_says(gateway: Gateway, document: dict[str, Any]) -> None:
    cases = [
        ("create_chat_completion", "POST", "/v1/chat/completions", 400),
        ("create_message", "POST", "/v1/messages", 400),
        ("show_key", "GET", "/api/keys/nobody", 404),
        ("create_key", "POST", "/api/keys", 400),
    ]
    for operation, method, path, status in cases:
        seen = request(
            method, gateway.url + path, headers=gateway.headers, **({"json": {}} if method == "POST" else {})
        )
        (found,) = [each for _, _, each in operations(document) if each["operationId"] == operation]
        name = found["responses"][str(status)]["$ref"].rpartition("/")[2]
        schema = document["components"]["responses"][name]["content"]["application/json"]["schema"]
        assert seen.status == status
        validate(json.loads(seen.body), {**schema, "components": document["components"]})
    for method, path, status in (("PUT", "/v1/models", 405), ("GET", "/health?" + "a" * 5_000, 414)):
        assert request(method, gateway.url + path, headers=gateway.headers).status == status


def test_examples_are_what_the_gateway_answers(document: dict[str, Any], answered: list[tuple[Call, Seen]]) -> None:
    made: dict[str, dict[str, Any]] = {}
    for call, seen in answered:
        example = made.setdefault(call.id, {})
        if call.as_stream:
            example["text/event-stream"] = seen.body.decode()
        elif "application/json" not in example:
            example |= {} if call.body is None else {"body": json.loads(name_plainly(json.dumps(call.body)))}
            example["application/json"] = shorten(json.loads(seen.body))
    if UPDATES:
        text = re.sub(r"gw_\w+", "gw_REPLACE_ME", json.dumps(made, indent=1, ensure_ascii=False))
        EXAMPLES.write_text(text + "\n")
    stored = json.loads(EXAMPLES.read_text())
    assert stored.keys() == made.keys()
    for name, example in stored.items():
        assert example.get("body") == made[name].get("body"), name
        compare_fields(example["application/json"], made[name]["application/json"], name)
        assert find_fields(example.get("text/event-stream")) == find_fields(made[name].get("text/event-stream")), name
        (status,) = [each.status for each in OPERATIONS if each.id == name]
        validate(example["application/json"], find_schema(document, name, status, "application/json"))


def name_plainly(text: str) -> str:
    """Returns a request with people's names in place of the names that are unique to a run."""
    return (
        text.replace("{new}", "dave")
        .replace("{group}", "research")
        .replace("{empty}", "nobody")
        .replace("{holder}", "erin")
        .replace("{alias}", "fast")
    )


def shorten(shown: Any) -> Any:
    """Returns an answer with its lists and texts shortened to what an example needs."""
    if isinstance(shown, dict):
        return {name: shorten(value) for name, value in shown.items()}
    if isinstance(shown, list):
        return [shorten(value) for value in shown[: 4 if shown and isinstance(shown[0], float) else _MAX_ITEMS]]
    return shown[:_MAX_TEXT] if isinstance(shown, str) else shown


def compare_fields(stored: Any, made: Any, place: str) -> None:
    """Raises an AssertionError if objects of two answers differ in fields; of lists, it compares the first entries."""
    if isinstance(stored, dict) and isinstance(made, dict) and place.rpartition(".")[2] not in _OF_OTHER_TESTS:
        assert stored.keys() == made.keys(), place
        for name, value in stored.items():
            compare_fields(value, made[name], f"{place}.{name}")
    if isinstance(stored, list) and isinstance(made, list) and stored and made:
        compare_fields(stored[0], made[0], place)


# Objects whose fields depend on the requests of other tests to the same gateway.
_OF_OTHER_TESTS = {"before", "after", "errors", "outcomes", "catalogs", "problems"}


def find_fields(stream: str | None) -> set[str]:
    """Returns the names of the fields in the events of a stream."""
    return set(re.findall(r'"(\w+)":', stream or ""))
