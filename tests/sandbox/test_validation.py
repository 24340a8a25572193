"""The sandbox refuses what Fireworks refuses, with its status, error body and message."""

import json
from typing import Any

import pytest
import requests

from tests.sandbox.client import KEY, PREFIX, USER, Server, make_headers

EXTRA = "Extra inputs are not permitted, field: "


def check_server_error(response: requests.Response) -> str:
    """Checks the shape of a model server's error, and returns its message."""
    body = response.json()
    assert response.status_code == 400
    assert list(body) == ["error", "request_id"]
    assert body["request_id"].startswith("chatcmpl-")
    error = body["error"]
    assert (error["object"], error["type"]) == ("error", "invalid_request_error")
    assert error["code"] == "invalid_request_error"
    return str(error["message"])


def check_front_error(response: requests.Response, status: int, code: str, param: str | None) -> str:
    """Checks the shape of an error of the provider's own gateway, and returns its message."""
    body = response.json()
    assert response.status_code == status
    error = body["error"]
    assert (error["code"], error["param"], error["type"]) == (code, param, "error")
    assert body["request_id"].startswith("chatcmpl-")
    return str(error["message"])


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({"promptCacheKey": "x"}, EXTRA + "'promptCacheKey'"),
        ({"store": True}, EXTRA + "'store', value: True"),
        ({"messages": [USER[0] | {"name": "me"}]}, EXTRA + "'messages[0].name'"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "cache_control": {}}]}]},
            EXTRA + "'messages[0].content[0].cache_control'",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "f"}, "cache_control": {}}]},
            EXTRA + "'tools[0].cache_control'",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "x": 1}}]},
            EXTRA + "'tools[0].function.x', value: 1",
        ),
        (
            {"response_format": {"type": "json_object", "schema_field": "x"}},
            EXTRA + "'response_format.schema_field'",
        ),
        ({"stream_options": {"chunk_size": 3}}, EXTRA + "'stream_options.chunk_size', value: 3"),
    ],
)
def test_an_unknown_field_is_refused_at_every_level(server: Server, body: dict[str, Any], problem: str) -> None:
    assert check_server_error(server.chat(**body)) == problem


def test_several_problems_are_in_one_message(server: Server) -> None:
    message = check_server_error(server.chat(store=True, temperature=3))
    assert message.startswith(f"2 request validation errors: {EXTRA}'store', value: True; ")
    assert "'temperature'" in message


@pytest.mark.parametrize(
    ("field", "bad", "good"),
    [
        ("temperature", 2.1, 2),
        ("temperature", "1", 0.1),
        ("top_p", -0.1, 1),
        ("top_k", 101, 100),
        ("min_p", 2, 0),
        ("frequency_penalty", -2.5, -2),
        ("presence_penalty", 3, 2),
        ("repetition_penalty", -1, 1.5),
        ("n", 129, 1),
        ("n", True, 2),
        ("max_tokens", 0, 1),
        ("stop", ["a"] * 5, ["a"] * 4),
        ("service_tier", "scale", "priority"),
        ("service_tier", "turbo", "flex"),
        ("reasoning_effort", "extreme", "xhigh"),
        ("logit_bias", [1], {"1": 5}),
        ("user", 5, "someone"),
        ("tool_choice", "maybe", "any"),
    ],
)
def test_a_value_out_of_range_is_refused(server: Server, field: str, bad: Any, good: Any) -> None:
    assert f"field: '{field}'" in check_server_error(server.chat(**{field: bad}))
    assert server.chat(**{field: good}).status_code == 200


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({"logprobs": True, "top_logprobs": 20}, "logprobs must be between 0 and 5: 20"),
        ({"response_format": {}}, "Invalid format type: None. Must be one of: text, grammar,"),
        ({"max_tokens": 5, "max_completion_tokens": 5}, "max_tokens and max_completion_tokens"),
        ({"thinking": {"type": "disabled"}, "reasoning_effort": "low"}, "thinking and reasoning_effort"),
        ({"messages": None}, "Field required, field: 'messages'"),
        ({"messages": []}, "Input should be a non-empty list, field: 'messages'"),
        ({"messages": [{"role": "developer", "content": "x"}]}, "Input should be 'system', 'user'"),
        ({"messages": [{"role": "user", "content": [{"type": "file"}]}]}, "Input should be 'text', 'image_url'"),
    ],
)
def test_invalid_messages_and_combinations_are_refused(server: Server, body: dict[str, Any], problem: str) -> None:
    assert check_server_error(server.chat(**body)).startswith(problem)


def test_gpt_oss_cannot_stop_thinking(server: Server) -> None:
    response = server.chat(PREFIX + "gpt-oss-120b", reasoning_effort="none")
    assert check_server_error(response) == "Invalid reasoning effort: none"


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_more_than_4096_tokens_must_be_streamed(server: Server, field: str) -> None:
    message = check_front_error(server.chat(**{field: 4097}), 400, "BAD_REQUEST", "max_tokens")
    assert message == "Requests with max_tokens > 4096 must have stream=true"
    assert server.stream(**{field: 4097})[-1] == "[DONE]"
    assert server.chat(**{field: 4096}).status_code == 200


def test_a_prompt_over_the_window_is_refused(server: Server) -> None:
    messages = [{"role": "user", "content": "a " * 131_073}]
    response = server.chat(PREFIX + "deepseek-v3", messages=messages)
    expected = "The prompt is too long: 131074, model maximum context length: 131072"
    assert check_server_error(response) == expected


@pytest.mark.parametrize("model", ["accounts/fireworks/models/none", "deepseek-v3p1", "sandbox-503-7"])
def test_an_unknown_model_is_not_found(server: Server, model: str) -> None:
    message = check_front_error(server.chat(model), 404, "NOT_FOUND", "model")
    assert message == "Model not found, inaccessible, and/or not deployed"


def test_a_missing_model_is_refused(server: Server) -> None:
    assert check_server_error(server.chat(model="")) == "Field required, field: 'model'"


def test_an_embedding_model_does_not_chat(server: Server) -> None:
    check_front_error(server.chat(PREFIX + "qwen3-embedding-8b"), 400, "BAD_REQUEST", "model")


@pytest.mark.parametrize("text", ["{", "[]", '"x"', '{"temperature": NaN}', "[" * 100_000])
def test_a_body_that_is_not_a_json_object_is_refused(server: Server, text: str) -> None:
    url = f"{server.url}/inference/v1/chat/completions"
    response = requests.post(url, data=text, headers=make_headers(KEY), timeout=10)
    check_front_error(response, 400, "BAD_REQUEST", None)


@pytest.mark.parametrize("key", [None, "", "bad", "bad_key"])
def test_a_missing_or_bad_key_is_refused_everywhere(server: Server, key: str | None) -> None:
    for response in (
        server.chat(key=key),
        server.get("/inference/v1/models", key=key),
        server.get("/v1/serverless/models", key=key),
    ):
        message = check_front_error(response, 401, "UNAUTHORIZED", None)
        assert message == "The API key you provided is invalid."


def test_a_chunked_body_is_read_too(server: Server) -> None:
    body = json.dumps({"model": PREFIX + "glm-5p3", "messages": USER}).encode()
    url = f"{server.url}/inference/v1/chat/completions"
    pieces = iter([body[:10], body[10:]])
    assert requests.post(url, data=pieces, headers=make_headers(KEY), timeout=10).status_code == 200
