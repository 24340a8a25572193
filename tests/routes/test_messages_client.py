"""The official Anthropic client against the gateway: messages, streams, tools, an agent's session and every error."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support.answers import DONE, chat_answer, chunk, error_event, json_answer, sse_stream, usage_of
from tests.support.anthropic_sdk import read_message
from tests.support.chat import PREFIX, request, rows_where, wait_for_row
from tests.support.gateway import Gateway
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.scripts import Script, pause
from tests.support.sdks import anthropic
from tests.support.tree import ROOT

MODEL = PREFIX + "deepseek-v3p1"
HELLO = [{"role": "user", "content": "Hello!"}]
WEATHER = {
    "name": "weather",
    "description": "Returns the weather.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
SESSION = json.loads((ROOT / "tests/routes/agent_session.json").read_text())
# Marks each request as an SDK's retry, so that the gateway sends it only once.
ONCE = {"x-stainless-retry-count": "1"}


@contextmanager
def anthropic_client(gateway: Gateway, **more: Any) -> Iterator[anthropic.Anthropic]:
    """An Anthropic client of the gateway, which sends each request once."""
    options: dict[str, Any] = {"api_key": gateway.key, "max_retries": 0, "timeout": 20, "default_headers": ONCE} | more
    with anthropic.Anthropic(base_url=gateway.url, **options) as client:
        yield client


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> Iterator[anthropic.Anthropic]:
    """A client of the gateway in front of the sandbox."""
    with anthropic_client(gateway) as client:
        yield client


@pytest.fixture(scope="module")
def scripted(scripted_gateway: Gateway) -> Iterator[anthropic.Anthropic]:
    """A client of the gateway in front of the scripted upstream."""
    with anthropic_client(scripted_gateway) as client:
        yield client


def get_sent(upstream: ScriptedUpstream) -> dict[str, Any]:
    """Returns the last body that the provider got, apart from requests for its list of models."""
    sent: dict[str, Any] = upstream.calls[-1].json
    return sent


def text_of(message: anthropic.types.Message) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def test_a_message_and_its_stream_say_the_same(
    client: anthropic.Anthropic, session_database_url: str, gateway: Gateway
) -> None:
    asked: dict[str, Any] = {"model": MODEL, "max_tokens": 300, "messages": HELLO, "system": "Be brief."}
    whole = client.messages.create(**asked)
    with client.messages.stream(**asked) as stream:
        streamed = stream.get_final_message()
    assert text_of(whole).startswith("[sandbox] Hello!") and text_of(streamed) == text_of(whole)
    read_message(whole.to_dict())
    for message in (whole, streamed):
        assert (message.model, message.stop_reason, message.role) == (MODEL, "end_turn", "assistant")
        assert message.usage.input_tokens > 0 and message.usage.output_tokens > 0
    row = wait_for_row(session_database_url, whole._request_id or "")
    assert (row["endpoint"], row["outcome"], row["usage_source"]) == ("/v1/messages", "ok", "provider")
    assert row["completion_tokens"] == whole.usage.output_tokens
    assert row["prompt_tokens"] == whole.usage.input_tokens + (whole.usage.cache_read_input_tokens or 0)


@pytest.mark.parametrize("provider", ["fireworks", "featherless", "deepinfra", "chutes"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_tool_is_called_and_answered_at_each_provider(gateway_of_four: Gateway, provider: str, stream: bool) -> None:
    models = request("GET", f"{gateway_of_four.url}/api/catalog/models?gateway={provider}").json["data"]
    model = next(each["id"] for each in models if each["capabilities"]["chat"] is not False)
    messages: list[dict[str, Any]] = [{"role": "user", "content": "What is the weather in Oslo"}]
    with anthropic_client(gateway_of_four) as client:

        def ask() -> anthropic.types.Message:
            asked: dict[str, Any] = {"model": model, "max_tokens": 300, "messages": messages, "tools": [WEATHER]}
            more: dict[str, Any] = {"extra_body": {"provider": provider}}
            if not stream:
                return client.messages.create(**asked, **more)
            with client.messages.stream(**asked, **more) as events:
                return events.get_final_message()

        called = ask()
        assert called.stop_reason == "tool_use"
        (call,) = [block for block in called.content if block.type == "tool_use"]
        assert call.name == "weather" and set(call.input) == {"city"}
        result = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "sunny"}]}
        messages += [{"role": "assistant", "content": called.content}, {"role": "user", "content": [result]}]
        told = ask()
    assert told.stop_reason == "end_turn" and text_of(told)


def test_a_session_of_an_agent(
    scripted: anthropic.Anthropic, upstream: ScriptedUpstream, session_database_url: str, scripted_gateway: Gateway
) -> None:
    """A session with the requests of a coding agent, and a model that thinks, calls two tools, and sees a picture.

    The provider must get back its own ids, names and thoughts, and every result after its call.
    """
    messages: list[Any] = [*SESSION["first"]]
    ids: list[str] = []
    for turn in SESSION["turns"]:
        upstream.enqueue(sse_stream([*turn["chunks"], DONE]))
        with scripted.messages.stream(messages=messages, **SESSION["request"]) as stream:
            answer = stream.get_final_message()
        assert answer.stop_reason == turn["stop_reason"]
        content = [block.to_dict() for block in answer.content]
        calls = [block for block in content if block["type"] == "tool_use"]
        assert [{name: block[name] for name in block if name != "id"} for block in content] == turn["content"]
        ids += [call["id"] for call in calls]
        messages.append({"role": "assistant", "content": content})
        results = [
            {"type": "tool_result", "tool_use_id": call["id"]} | result
            for call, result in zip(calls, turn["results"], strict=True)
        ]
        # An agent may send the results in another order, and more content after them.
        messages.append({"role": "user", "content": [*reversed(results), *turn["after"]]})
    assert len(set(ids)) == len(ids) == 3 and all(each.replace("_", "").replace("-", "").isalnum() for each in ids)
    upstream.enqueue(chat_answer("Done.", usage=usage_of(100, 2)))
    asked = {name: value for name, value in SESSION["request"].items() if name != "max_tokens"}
    last = scripted.messages.create(messages=messages, max_tokens=4_000, **asked)
    assert text_of(last) == "Done."
    sent = get_sent(upstream)
    assert [SESSION["sent"]["messages"], SESSION["sent"]["tools"]] == [sent["messages"], sent["tools"]]
    assert (sent["user"], sent["reasoning_effort"]) == ("5b1c7e0a-3f42-4d7e-9a60-0c2b8e4d1f77", "high")
    assert not sent.keys() & {"metadata", "context_management", "safeguards", "thinking", "system", "output_config"}
    row = wait_for_row(session_database_url, last._request_id or "")
    assert "SECRET" not in json.dumps(row, default=str) and "SECRET" not in scripted_gateway.log()


def test_what_is_left_out_or_changed_is_named(scripted: anthropic.Anthropic, upstream: ScriptedUpstream) -> None:
    listed = PREFIX + "scripted"  # Its context has 131,072 tokens.
    raw = scripted.messages.with_raw_response.create(
        model=listed + "[1m]",
        max_tokens=200_000,
        messages=[*HELLO, {"role": "assistant", "content": "Hi."}, {"role": "system", "content": "Be brief."}],
        thinking={"type": "enabled", "budget_tokens": 6_000},
        service_tier="auto",
        timeout=20,
        extra_body={"safeguards": {"cwd": "/srv"}},
    )
    assert raw.headers["x-gateway-dropped-params"] == "service_tier, safeguards"
    assert raw.headers["x-gateway-applied-params"] == (
        "messages[].role=system->user, thinking.budget_tokens=6000->reasoning_effort=medium, max_tokens=200000->131056"
    )
    assert raw.headers["request-id"] == raw.headers["x-request-id"] == raw.parse()._request_id
    sent = get_sent(upstream)
    assert (sent["model"], sent["max_tokens"], sent["stream"]) == (listed, 131_056, True)


def test_a_model_that_always_thinks_is_not_asked_to_stop(
    scripted: anthropic.Anthropic, upstream: ScriptedUpstream
) -> None:
    for model, effort, dropped in (
        (PREFIX + "gpt-oss-120b", None, "reasoning_effort"),
        (PREFIX + "kimi", "none", None),
    ):
        raw = scripted.messages.with_raw_response.create(
            model=model, max_tokens=9, messages=HELLO, thinking={"type": "disabled"}
        )
        assert raw.headers.get("x-gateway-dropped-params") == dropped
        assert get_sent(upstream).get("reasoning_effort") == effort


_REFUSED = {"error": {"message": "The prompt is too long: 40177, model maximum context length: 32767", "code": "x"}}
_VLLM = {
    "error": {
        "message": "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens (8000 in "
        "the messages, 1000 in the completion).",
        "code": 400,
    }
}
_SGLANG = {
    "error": {"message": "The input (900 tokens) is longer than the model's context length (800 tokens).", "code": 1}
}
_NEWER = {"error": {"message": "The decoder prompt (length 900) is longer than the maximum model length of 800."}}
_SAYS = {"error": {"message": "said", "type": "x"}}


@pytest.mark.parametrize(
    ("script", "raised", "status", "kind", "message"),
    [
        (json_answer(_SAYS, 400), "BadRequestError", 400, "invalid_request_error", "said"),
        (json_answer(_SAYS, 422), "BadRequestError", 400, "invalid_request_error", "said"),
        (
            json_answer(_REFUSED, 400),
            "BadRequestError",
            400,
            "invalid_request_error",
            "prompt is too long: 40177 tokens > 32767 maximum",
        ),
        (
            json_answer(_VLLM, 400),
            "BadRequestError",
            400,
            "invalid_request_error",
            "prompt is too long: 9000 tokens > 8192 maximum",
        ),
        *(
            (
                json_answer(body, 400),
                "BadRequestError",
                400,
                "invalid_request_error",
                "prompt is too long: 900 tokens > 800 maximum",
            )
            for body in (_SGLANG, _NEWER)
        ),
        (json_answer(_SAYS, 401), "InternalServerError", 502, "api_error", "FIREWORKS_API_KEY"),
        (json_answer(_SAYS, 403), "InternalServerError", 502, "api_error", "FIREWORKS_API_KEY"),
        (json_answer(_SAYS, 402), "InternalServerError", 502, "api_error", "does not serve the gateway's"),
        (json_answer(_SAYS, 404), "NotFoundError", 404, "not_found_error", "said"),
        (json_answer(_SAYS, 429), "RateLimitError", 429, "rate_limit_error", "said"),
        (json_answer(_SAYS, 500), "InternalServerError", 500, "api_error", "said"),
        (json_answer(_SAYS, 503), "OverloadedError", 529, "overloaded_error", "said"),
        (json_answer(_SAYS, 504), "DeadlineExceededError", 504, "api_error", "said"),
        (json_answer({"choices": "x"}), "InternalServerError", 502, "api_error", "not a chat completion"),
    ],
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_an_error_has_the_class_by_which_agents_decide(
    scripted: anthropic.Anthropic,
    upstream: ScriptedUpstream,
    script: Script,
    raised: str,
    status: int,
    kind: str,
    message: str,
    stream: bool,
) -> None:
    # A separate model for each, because failures open a model's circuit breaker.
    model = f"{PREFIX}messages-error-{status}-{abs(hash(str(script) + str(stream)))}-"
    upstream.on_model(model, script)
    with pytest.raises(getattr(anthropic, raised)) as seen:
        scripted.messages.create(model=model, max_tokens=9, messages=HELLO, stream=stream)
    error, body = seen.value, seen.value.body
    assert isinstance(body, dict)
    assert (error.status_code, body["type"], body["error"]["type"]) == (status, "error", kind)
    assert message in body["error"]["message"]
    assert body["request_id"] == error.response.headers["request-id"] == error.response.headers["x-request-id"]


def test_errors_before_the_body_is_read_have_the_same_shape(gateway: Gateway) -> None:
    url = f"{gateway.url}/v1/messages"
    sent = {"headers": gateway.headers}
    seen = {
        401: request("POST", url, headers={"x-api-key": "wrong"}),
        404: request("POST", url + "/batches", **sent),
        405: request("GET", url, **sent),
        413: request("POST", url, data=b"x" * (1 << 26), **sent),
        415: request("POST", url, data=b"x", headers=gateway.headers | {"content-encoding": "br"}),
        400: request("POST", url, data=b"{", **sent),
    }
    kinds = {401: "authentication_error", 404: "not_found_error", 413: "request_too_large"}
    for status, answer in seen.items():
        assert answer.status == status
        assert answer.json["type"] == "error"
        assert answer.json["error"]["type"] == kinds.get(status, "invalid_request_error")
        assert answer.json["request_id"] == answer.headers["request-id"] == answer.request_id
    twice = request("POST", f"{gateway.url}/v1/v1/messages", **sent)
    assert (twice.status, twice.json["error"]["type"]) == (404, "not_found_error")
    assert "'/v1/messages'" in twice.json["error"]["message"]


def test_a_missing_provider_key_is_the_gateways_own_trouble(gateway: Gateway) -> None:
    with anthropic_client(gateway) as client, pytest.raises(anthropic.InternalServerError) as raised:
        client.messages.create(model="x", max_tokens=9, messages=HELLO, extra_body={"provider": "chutes"})
    body = raised.value.body
    assert isinstance(body, dict) and body["error"]["type"] == "api_error"
    assert raised.value.status_code == 500 and raised.value.response.headers["x-should-retry"] == "false"


def test_both_headers_with_the_key_are_the_same(gateway: Gateway) -> None:
    for key in ({"x-api-key": gateway.key}, {"authorization": f"Bearer {gateway.key}"}):
        body = {"model": MODEL, "max_tokens": 5, "messages": HELLO}
        seen = request("POST", f"{gateway.url}/v1/messages?beta=true", json=body, headers=key)
        assert (seen.status, seen.json["type"]) == (200, "message")


@pytest.mark.parametrize(
    ("script", "outcome"),
    [
        (sse_stream([chunk("Once"), chunk(" upon")], ending="fin"), "upstream_cut"),
        (sse_stream([chunk("Once"), chunk(" upon"), pause(0.2)], ending="reset"), "upstream_cut"),
        (sse_stream([chunk("Once"), chunk(" upon"), chunk(finish="stop")]), "upstream_cut"),
        (sse_stream([chunk("Once"), chunk(" upon"), DONE]), "upstream_cut"),
        (sse_stream([chunk("Once"), chunk(" upon"), error_event()]), "upstream_error"),
    ],
    ids=["closed", "reset", "without an end marker", "without a finish reason", "an error"],
)
def test_a_cut_stream_raises(
    scripted: anthropic.Anthropic,
    upstream: ScriptedUpstream,
    session_database_url: str,
    script: Script,
    outcome: str,
) -> None:
    upstream.default = script
    text = ""
    with (
        pytest.raises(anthropic.APIError),
        scripted.messages.stream(model=PREFIX + "cut", max_tokens=9, messages=HELLO) as stream,
    ):
        request_id = stream.response.headers["request-id"]
        for piece in stream.text_stream:
            text += piece
    assert text == "Once upon"
    row = wait_for_row(session_database_url, request_id)
    assert (row["outcome"], row["usage_source"], row["status"]) == (outcome, "counted", 200)


def test_an_image_goes_only_to_a_model_that_sees(gateway_of_four: Gateway) -> None:
    models = request("GET", f"{gateway_of_four.url}/api/catalog/models?gateway=fireworks").json["data"]
    by_sight = {each["capabilities"]["vision"]: each["id"] for each in models if each["capabilities"]["chat"]}
    source = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(b"\x89PNG").decode()}
    messages: list[Any] = [{"role": "user", "content": [{"type": "image", "source": source}]}]
    with anthropic_client(gateway_of_four) as client:
        assert client.messages.create(model=by_sight[True], max_tokens=9, messages=messages).role == "assistant"
        with pytest.raises(anthropic.BadRequestError, match=f"{by_sight[False]} does not accept images"):
            client.messages.create(model=by_sight[False], max_tokens=9, messages=messages)


def test_max_tokens_is_reduced_to_what_the_model_may_write(gateway_of_four: Gateway) -> None:
    listed = request("GET", f"{gateway_of_four.url}/api/catalog/models?gateway=featherless&limit=50").json["data"]
    model = next(each for each in listed if each["max_output_tokens"] and not each["capabilities"]["embeddings"])
    assert (model["max_output_tokens"], model["context_length"]) == (4_096, 32_768)
    with anthropic_client(gateway_of_four) as client:
        raw = client.messages.with_raw_response.create(model=model["id"], max_tokens=9_000, messages=HELLO)
        assert raw.headers["x-gateway-applied-params"] == "max_tokens=9000->4096"
        assert client.models.retrieve(model["id"]).max_tokens == 4_096


def test_tokens_are_counted_without_a_provider_or_a_record(
    scripted: anthropic.Anthropic, upstream: ScriptedUpstream, scripted_gateway: Gateway, session_database_url: str
) -> None:
    model = PREFIX + "only-counted"
    count = scripted.messages.count_tokens(model=model, messages=HELLO, system="word " * 400, tools=[WEATHER])
    assert 500 < count.input_tokens < 700
    raw = scripted.messages.with_raw_response.count_tokens(model=model, messages=HELLO)
    assert raw.request_id and raw.request_id == raw.headers["x-request-id"]
    with pytest.raises(anthropic.BadRequestError, match="tool_use_id"):
        result = {"type": "tool_result", "tool_use_id": "x", "content": "y"}
        scripted.messages.count_tokens(model=model, messages=[{"role": "user", "content": [result]}])
    with pytest.raises(anthropic.AuthenticationError):
        scripted.with_options(api_key="wrong").messages.count_tokens(model=model, messages=HELLO)
    assert all(seen.path.endswith("/models") for seen in upstream.requests)
    # Once a later request's row is there, those of earlier ones would be too.
    last = scripted.messages.create(model=PREFIX + "scripted", max_tokens=9, messages=HELLO)
    wait_for_row(session_database_url, last._request_id or "")
    assert rows_where(session_database_url, "model_requested", model) == []
