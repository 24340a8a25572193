"""The documented fields of a chat request at their bounds."""

from __future__ import annotations

from typing import Any

import pytest

from app.errors import BadRequest
from app.services.endpoints import CHAT, ENDPOINTS
from app.services.inference.validation import validate_body

MESSAGES = [{"role": "user", "content": "hi"}]
GOOD: dict[str, list[Any]] = {
    "max_tokens": [1, 4096, 10**9, 5.0, None],
    "max_completion_tokens": [1, 20480, None],
    "temperature": [0, 0.0, 0.6, 2, 2.0, None],
    "top_p": [0, 0.5, 1, None],
    "top_k": [0, -1, 40, 100_000, 40.0, None],
    "presence_penalty": [-2, 0, 2, -1.5, None],
    "frequency_penalty": [-2.0, 0, 2.0, None],
    "n": [1, 128, None],
    "stream": [True, False, None],
    "stream_options": [{}, {"include_usage": True}, None],
    "service_tier": ["auto", "anything", None],
}
BAD: dict[str, list[Any]] = {
    "max_tokens": [0, -1, 1.5, 0.999, True, "5", [], {}],
    "max_completion_tokens": [0, "1", False],
    "temperature": [-0.001, 2.001, -1, 3, True, "0.5", [1], {}],
    "top_p": [-0.1, 1.1, True, "1"],
    "top_k": [2.5, False, "40"],
    "presence_penalty": [-2.1, 2.1, True, "0"],
    "frequency_penalty": [-3, 3, "0", []],
    "n": [0, 129, 1.5, True, "1"],
    "stream": ["true", 1, 0, {}, "false"],
    "stream_options": [True, [], "include_usage"],
    "service_tier": [[], {}, 1, True],
}
# The fields that a request must have, by path.
REQUIRED = {
    "/v1/chat/completions": ["messages", "model"],
    "/v1/completions": ["prompt", "model"],
    "/v1/embeddings": ["input", "model"],
    "/v1/rerank": ["query", "documents", "model"],
    "/v2/rerank": ["query", "documents", "model"],
    "/v1/messages": ["messages", "max_tokens", "model"],
    "/v1/responses": ["input", "model"],
}


def validate(**fields: Any) -> None:
    validate_body({"model": "m", **fields}, CHAT.body)


def cases(table: dict[str, list[Any]]) -> list[tuple[str, Any]]:
    return [(name, value) for name, values in table.items() for value in values]


@pytest.mark.parametrize(("name", "value"), cases(GOOD), ids=str)
def test_a_documented_parameter_within_its_bounds_is_accepted(name: str, value: Any) -> None:
    validate(messages=MESSAGES, **{name: value})


@pytest.mark.parametrize(("name", "value"), cases(BAD), ids=str)
def test_a_documented_parameter_outside_its_bounds_is_a_400_that_names_it(name: str, value: Any) -> None:
    with pytest.raises(BadRequest) as caught:
        validate(messages=MESSAGES, **{name: value})
    error = caught.value
    assert (error.status, error.param, error.code) == (400, name, "invalid_parameter")
    assert f"`{name}`" in error.message


@pytest.mark.parametrize("messages", [None, [], {}, "hi", 5, ()])
def test_messages_must_be_a_list_that_is_not_empty(messages: Any) -> None:
    with pytest.raises(BadRequest) as caught:
        validate(messages=messages)
    assert caught.value.param == "messages"


@pytest.mark.parametrize("message", [None, "hi", 5, ["role"]])
def test_each_message_must_be_an_object(message: Any) -> None:
    with pytest.raises(BadRequest) as caught:
        validate(messages=[*MESSAGES, message])
    assert caught.value.param == "messages[1]"


@pytest.mark.parametrize("name", ["", 5, [], True, "x" * 301, "a\nb", "a\x00"])
@pytest.mark.parametrize("field", ["model", "provider"])
def test_names_must_be_printable_and_not_too_long(field: str, name: Any) -> None:
    with pytest.raises(BadRequest) as caught:
        validate(messages=MESSAGES, **{field: name})
    assert caught.value.param == field
    otherwise = ", or an object" if field == "provider" else ""
    assert caught.value.message == f"`{field}` must be a string of 1 to 300 printable characters{otherwise}."


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"max_tokens": 0}, "`max_tokens` must be a whole number of at least 1."),
        ({"n": 129}, "`n` must be a whole number from 1 to 128."),
        ({"temperature": 3}, "`temperature` must be a number from 0 to 2."),
        ({"presence_penalty": "x"}, "`presence_penalty` must be a number from -2 to 2."),
        ({"top_k": 2.5}, "`top_k` must be a whole number."),
        ({"stream": 1}, "`stream` must be true or false."),
        ({"stream_options": []}, "`stream_options` must be an object."),
        ({"service_tier": 5}, "`service_tier` must be a string."),
        ({"messages": []}, "`messages` must be a list with at least one message."),
        ({"messages": ["hi"]}, "`messages[0]` must be an object with `role` and `content`."),
        ({"temperature": 1e400}, "`temperature` must be a number from 0 to 2."),
    ],
)
def test_the_error_says_what_the_field_must_be(field: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRequest) as caught:
        validate(**({"messages": MESSAGES} | field))
    assert caught.value.message == message


@pytest.mark.parametrize(
    ("path", "fields", "param", "message"),
    [
        ("/v1/messages", {"max_tokens": 0}, "max_tokens", "be a whole number of at least 1."),
        ("/v1/messages", {"stop_sequences": list("abcde")}, "stop_sequences", "be a list of at most 4 strings."),
        ("/v1/messages", {"stop_sequences": ["a", 5]}, "stop_sequences", "be a list of at most 4 strings."),
        ("/v1/responses", {"metadata": {"x": "y", "a": 1}}, "metadata.a", "be a string."),
        ("/v1/responses", {"metadata": {"a": None}}, "metadata.a", "be a string."),
        ("/v1/responses", {"metadata": {"a" * 5_000: 1}}, "metadata." + "a" * 100, "be a string."),
        ("/v1/responses", {"metadata": []}, "metadata", "be an object."),
        ("/v1/responses", {"text": {"format": []}}, "text.format", "be an object."),
    ],
)
def test_the_error_names_the_field_of_the_api_that_was_called(
    path: str, fields: dict[str, Any], param: str, message: str
) -> None:
    (endpoint,) = [each for each in ENDPOINTS if each.path == path]
    present: dict[str, Any] = {"messages": MESSAGES, "input": "x", "max_tokens": 9}
    with pytest.raises(BadRequest) as caught:
        validate_body({"model": "m"} | present | fields, endpoint.body)
    assert (caught.value.param, caught.value.message) == (param, f"`{param}` must {message}")


@pytest.mark.parametrize("is_null", [False, True])
@pytest.mark.parametrize(("path", "names"), REQUIRED.items())
def test_a_missing_field_is_said_to_be_required(path: str, names: list[str], *, is_null: bool) -> None:
    (endpoint,) = [each for each in ENDPOINTS if each.path == path]
    values: dict[str, Any] = {
        name: MESSAGES if name == "messages" else 9 if name == "max_tokens" else ["x"] if name == "documents" else "x"
        for name in names
    }
    validate_body(dict(values), endpoint.body)
    for name in names:
        body = values | {name: None}
        with pytest.raises(BadRequest) as caught:
            validate_body(body if is_null else {key: body[key] for key in body if key != name}, endpoint.body)
        error = caught.value
        assert (error.message, error.param, error.code) == (f"`{name}` is required.", name, "invalid_parameter")


def test_another_error_beside_a_whole_number_written_as_a_float_is_found() -> None:
    with pytest.raises(BadRequest) as caught:
        validate(messages=MESSAGES, max_tokens=5.0, n=0)
    assert caught.value.param == "n"
