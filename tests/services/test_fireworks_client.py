"""The Python client for Fireworks: its four functions as documented, and every error that they raise."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
import responses

from app.errors import (
    ConfigurationMissing,
    UpstreamAuthenticationFailed,
    UpstreamError,
    UpstreamRefused,
    UpstreamSuspended,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from app.runtime import use_settings
from app.services.fireworks_client import (
    ChatObject,
    get_fireworks_client,
    make_fireworks_request_openai,
    make_fireworks_request_openai_stream,
    process_fireworks_response,
)
from tests.services.inference.chat_core import KEY, settings_for

BASE_URL = "https://api.fireworks.ai/inference/v1"
CHAT_URL = BASE_URL + "/chat/completions"
MODEL = "accounts/fireworks/models/deepseek-v3p1"
MESSAGES = [{"role": "user", "content": "Hello"}]

COMPLETION: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1_795_348_800,
    "model": MODEL,
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi!"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 5, "total_tokens": 7, "completion_tokens": 2},
}


@pytest.fixture(autouse=True)
def _fireworks() -> Iterator[None]:
    use_settings(settings_for(BASE_URL))
    yield
    use_settings(None)


@pytest.fixture
def web() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock() as web:
        yield web


def sent(web: responses.RequestsMock) -> Any:
    body = web.calls[0].request.body
    assert isinstance(body, bytes)
    return json.loads(body)


def event(choices: list[dict[str, Any]], **more: Any) -> str:
    return "data: " + json.dumps({"id": "c", "object": "chat.completion.chunk", "choices": choices, **more}) + "\n\n"


def text_event(text: str | None, finish: str | None = None) -> str:
    return event([{"index": 0, "delta": {} if text is None else {"content": text}, "finish_reason": finish}])


def stream_of(web: responses.RequestsMock, *events: str) -> None:
    web.post(CHAT_URL, body="".join(events), content_type="text/event-stream")


STREAM = [
    event([{"index": 0, "delta": {"role": "assistant"}, "finish_reason": None}], usage=None),
    text_event("Hel"),
    ": a comment\n\n",
    text_event("lo 🌍\u2028"),
    text_event(None, "stop"),
    event([], usage={"prompt_tokens": 5, "completion_tokens": 2}),
    "data: [DONE]\n\n",
]


def test_the_documented_streaming_example_runs_as_printed(
    web: responses.RequestsMock, capsys: pytest.CaptureFixture[str]
) -> None:
    stream_of(web, *STREAM)
    messages = [{"role": "user", "content": "Hello"}]
    stream = make_fireworks_request_openai_stream(messages, "accounts/fireworks/models/deepseek-v3p1")

    for chunk in stream:
        if chunk.choices[0].delta.content:
            print(chunk.choices[0].delta.content, end="")
    assert capsys.readouterr().out == "Hello 🌍\u2028"


def test_a_completion_is_returned_unchanged(web: responses.RequestsMock) -> None:
    web.post(CHAT_URL, json=COMPLETION)
    assert get_fireworks_client() is get_fireworks_client()
    completion = make_fireworks_request_openai(MESSAGES, MODEL, max_tokens=50, temperature=0.6)
    assert completion == COMPLETION
    assert completion.choices[0].message.content == "Hi!" and completion.usage.completion_tokens == 2
    assert completion.choices[0].message.reasoning_content is None
    assert sent(web) == {
        "model": MODEL,
        "messages": MESSAGES,
        "max_tokens": 50,
        "temperature": 0.6,
        "stream": False,
    }
    headers = web.calls[0].request.headers
    assert headers["Authorization"] == f"Bearer {KEY}" and headers["Content-Type"] == "application/json"


def test_a_stream_requests_usage_and_hides_the_event_by_default(web: responses.RequestsMock) -> None:
    stream_of(web, *STREAM)
    chunks = list(make_fireworks_request_openai_stream(MESSAGES, MODEL, top_k=40))
    assert sent(web)["stream"] is True and sent(web)["stream_options"] == {"include_usage": True}
    assert sent(web)["top_k"] == 40
    assert web.calls[0].request.headers["Accept"] == "text/event-stream"
    assert all(chunk.choices for chunk in chunks) and len(chunks) == 4


def test_the_usage_event_is_returned_if_requested(web: responses.RequestsMock) -> None:
    stream_of(web, *STREAM)
    chunks = list(make_fireworks_request_openai_stream(MESSAGES, MODEL, stream_options={"include_usage": True}))
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 2


def test_tools_and_reasoning_come_through_in_a_stream(web: responses.RequestsMock) -> None:
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": ""}}
    stream_of(
        web,
        event([{"index": 0, "delta": {"reasoning_content": "Let me see."}}]),
        event([{"index": 0, "delta": {"tool_calls": [call]}}]),
        event([{"index": 0, "delta": {"tool_calls": [{"index": 0, "function": {"arguments": '{"city"'}}]}}]),
        text_event(None, "tool_calls"),
        "data: [DONE]\n\n",
    )
    tools = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]
    chunks = list(make_fireworks_request_openai_stream(MESSAGES, MODEL, tools=tools))
    assert sent(web)["tools"] == tools
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert deltas[0].reasoning_content == "Let me see."
    assert deltas[1].tool_calls[0].function.name == "get_weather"
    assert deltas[2].tool_calls[0].function.arguments == '{"city"'
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_a_response_is_normalised_without_being_changed() -> None:
    call = {"id": "functions.f:0", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    raw = ChatObject(
        COMPLETION
        | {
            "choices": [
                {"index": 0, "message": {"role": "assistant", "reasoning_content": "hm"}, "finish_reason": "length"},
                {"index": 1, "message": {"role": "assistant", "tool_calls": [call]}, "finish_reason": "tool_calls"},
                {"index": 2, "message": {"role": "assistant", "content": "x"}, "logprobs": {"content": []}},
            ]
        }
    )
    before = json.dumps(raw)
    response = process_fireworks_response(raw)
    assert json.dumps(raw) == before and type(response) is dict
    first, second, third = response["choices"]
    assert first["message"] == {"role": "assistant", "reasoning_content": "hm", "content": None}
    assert second["message"] == {"role": "assistant", "tool_calls": [call], "content": None}
    assert third["logprobs"] == {"content": []} and third["finish_reason"] is None
    assert response["usage"] == COMPLETION["usage"] and response["id"] == "chatcmpl-1"


def test_a_chat_object_is_a_dictionary_too() -> None:
    chunk = ChatObject({"choices": [{"delta": {"content": "x"}}], "usage": None})
    assert chunk["choices"][0]["delta"]["content"] == chunk.choices[0].delta.content == "x"
    assert chunk.usage is None and chunk.nothing is None
    assert json.loads(json.dumps(chunk)) == chunk
    with pytest.raises(AttributeError):
        _ = chunk.__wrapped__


@pytest.mark.parametrize("key", ["", "  "])
def test_a_missing_key_is_named_before_anything_is_sent(key: str) -> None:
    use_settings(settings_for(BASE_URL, FIREWORKS_API_KEY=key))
    calls: list[Callable[[], Any]] = [
        get_fireworks_client,
        lambda: make_fireworks_request_openai(MESSAGES, MODEL),
        lambda: make_fireworks_request_openai_stream(MESSAGES, MODEL),
    ]
    for call in calls:
        with pytest.raises(ConfigurationMissing) as caught:
            call()
        assert caught.value.message == "Fireworks API key not configured"
        assert (caught.value.status, caught.value.type) == (503, "configuration_error")


SHAPES: list[dict[str, Any]] = [
    {"json": {"error": {"message": "Wrong", "param": None, "code": "X", "type": "error"}, "request_id": "r-1"}},
    {"json": {"error": {"object": "error", "type": "invalid_request_error", "message": "Wrong"}, "request_id": "r-1"}},
    {"json": {"type": "error", "error": {"type": "api_error", "message": "Wrong"}, "request_id": "r-1"}},
    {"json": {"detail": [{"loc": ["body", "x"], "msg": "Wrong", "type": "value_error"}]}},
    {"json": {"error": "Wrong"}},
    {"json": {"error": "Too bad", "message": "Wrong"}},
    {"json": {"fault": {"faultstring": "Wrong", "detail": {"errorcode": "x"}}}},
    {"json": {"code": 5, "message": "Wrong", "details": []}},
    {"json": {"error_message": "Wrong"}},
    {"body": "<html><body>Wrong</body></html>", "content_type": "text/html"},
    {"body": "Wrong", "content_type": "text/plain"},
    {"body": ""},
]
STATUSES: list[tuple[int, type[UpstreamError], str, int]] = [
    (400, UpstreamRefused, "invalid_request_error", 400),
    (401, UpstreamAuthenticationFailed, "upstream_authentication_error", 401),
    (403, UpstreamAuthenticationFailed, "upstream_authentication_error", 403),
    (404, UpstreamRefused, "not_found_error", 404),
    (429, UpstreamRefused, "rate_limit_error", 429),
    (500, UpstreamError, "upstream_error", 500),
    (502, UpstreamError, "upstream_error", 502),
    (503, UpstreamError, "upstream_error", 503),
    (504, UpstreamTimeout, "upstream_timeout", 504),
    (520, UpstreamError, "upstream_error", 502),
    (524, UpstreamTimeout, "upstream_timeout", 504),
]


@pytest.mark.parametrize(("status", "kind", "name", "shown"), STATUSES)
@pytest.mark.parametrize("stream", [False, True])
def test_an_error_of_fireworks_is_classified_by_its_status_in_every_shape(
    web: responses.RequestsMock, stream: bool, status: int, kind: type[UpstreamError], name: str, shown: int
) -> None:
    make: Any = make_fireworks_request_openai_stream if stream else make_fireworks_request_openai
    for shape in SHAPES:
        web.post(CHAT_URL, status=status, headers={"x-request-id": "r-1"}, **shape)
        with pytest.raises(kind) as caught:
            make(MESSAGES, MODEL)
        error = caught.value
        assert (error.status, error.type, error.upstream_status) == (shown, name, status)
        assert error.upstream_request_id == "r-1" and error.message and "<" not in error.message


def test_the_name_of_a_suspended_account_stays_hidden(web: responses.RequestsMock) -> None:
    said = "Account acme-example is suspended, possibly due to reaching the monthly spending limit."
    web.post(CHAT_URL, status=412, json={"error": {"message": said, "code": "PRECONDITION_FAILED"}})
    with pytest.raises(UpstreamSuspended) as caught:
        make_fireworks_request_openai(MESSAGES, MODEL)
    assert caught.value.status == 503 and "acme" not in caught.value.message


def test_an_error_with_status_200_raises_what_it_says(web: responses.RequestsMock) -> None:
    web.post(CHAT_URL, json={"error": {"message": "Too long.", "code": 400}})
    with pytest.raises(UpstreamRefused, match="Too long") as caught:
        make_fireworks_request_openai(MESSAGES, MODEL)
    assert caught.value.status == 400


def test_half_an_emoji_is_sent_received_and_normalised(web: responses.RequestsMock) -> None:
    web.post(CHAT_URL, body='{"choices": [{"message": {"content": "\\ud83d"}, "logprobs": NaN}]}')
    response = make_fireworks_request_openai([{"role": "user", "content": "cut \ud83d"}], MODEL)
    completion = process_fireworks_response(response)
    assert completion["choices"][0]["message"]["content"] == "\ud83d"
    assert b"cut \\ud83d" in web.calls[0].request.body


@pytest.mark.parametrize("body", ["<html>200?</html>", "", "[1]", '"text"', "null", "{", "[" * 100_000])
def test_a_response_that_is_not_a_completion_is_an_upstream_error(web: responses.RequestsMock, body: str) -> None:
    web.post(CHAT_URL, body=body)
    with pytest.raises(UpstreamError) as caught:
        make_fireworks_request_openai(MESSAGES, MODEL)
    assert caught.value.status == 502


@pytest.mark.parametrize(
    "events",
    [
        [text_event("Hel")],
        [text_event("Hel"), "data: [DONE]\n\n"],
        [text_event("Hel"), text_event(None, "stop")],
        [text_event("Hel"), "data: {half"],
        [text_event("Hel"), "<html>\n\n"],
        [text_event("Hel"), 'data: {"error": {"message": "server had an error", "code": 500}}\n\n', "data: [DONE]\n\n"],
    ],
)
def test_a_stream_that_does_not_complete_returns_its_chunks_and_raises(
    web: responses.RequestsMock, events: list[str]
) -> None:
    stream_of(web, *events)
    got = []
    with pytest.raises(UpstreamError):
        for chunk in make_fireworks_request_openai_stream(MESSAGES, MODEL):
            got.append(chunk.choices[0].delta.content or "")
    assert "".join(got) == "Hel"


def test_a_stream_with_odd_chunks_is_read_to_its_end(web: responses.RequestsMock) -> None:
    half = 'data: {"choices": [{"delta": {"content": "\\ud83d"}}], "error": ""}\n\n'
    ping = 'event: ping\ndata: {"type": "ping"}\n\n'
    stream_of(web, half, ping, text_event("!", "stop"), "data: [DONE] ")
    chunks = list(make_fireworks_request_openai_stream(MESSAGES, MODEL))
    assert [chunk.choices[0].delta.content for chunk in chunks] == ["\ud83d", "!"]


@pytest.mark.parametrize(
    ("raised", "kind", "code"),
    [
        (ConnectionResetError("reset"), UpstreamUnreachable, "upstream_connection_lost"),
        (requests.ConnectionError("refused"), UpstreamUnreachable, "upstream_connection_lost"),
        (requests.exceptions.SSLError("bad certificate"), UpstreamUnreachable, "upstream_tls_error"),
        (requests.ConnectTimeout("slow"), UpstreamTimeout, "upstream_connect_timeout"),
        (requests.ReadTimeout("slow"), UpstreamTimeout, "upstream_first_byte_timeout"),
    ],
)
def test_transport_errors_are_translated(
    web: responses.RequestsMock, raised: Exception, kind: type[UpstreamError], code: str
) -> None:
    web.post(CHAT_URL, body=raised)
    with pytest.raises(kind) as caught:
        make_fireworks_request_openai(MESSAGES, MODEL)
    assert caught.value.code == code
