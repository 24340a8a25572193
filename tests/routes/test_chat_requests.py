"""The provider's request: the client's body without the documented fields, and the gateway's own headers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.answers import chat_answer, json_answer, sse_stream, whole_stream
from tests.support.chat import PREFIX, chat_body, post, post_chat
from tests.support.gateway import Gateway
from tests.support.request_reader import SeenRequest
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.waiting import wait_until

EVERYTHING: dict[str, Any] = {
    "max_tokens": 7,
    "temperature": 0.1,
    "top_p": 1,
    "top_k": 40,
    "min_p": 0.05,
    "presence_penalty": -0.5,
    "frequency_penalty": 0,
    "n": 2,
    "stop": ["\n", "END"],
    "seed": 123456789012345678901234567890,
    "user": "someone",
    "logprobs": True,
    "top_logprobs": 3,
    "logit_bias": {"50256": -100},
    "reasoning_effort": "low",
    "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}},
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "parallel_tool_calls": False,
    "context_length_exceeded_behavior": "truncate",
    "prompt_cache_key": None,
    "unheard_of": {"deeply": [{"nested": [1.5, None, True, "ünï\u2028\u0000"]}]},
    "messages": [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is it? 🌍"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
            ],
        },
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function", "function": {}}]},
        {"role": "tool", "tool_call_id": "c", "content": "an answer"},
    ],
}


def sent_of(upstream: ScriptedUpstream) -> SeenRequest:
    """Returns the one chat request that reached the provider."""
    (seen,) = [seen for seen in upstream.requests if seen.path.endswith("/chat/completions")]
    return seen


@pytest.mark.parametrize("provider", [{}, {"provider": "fireworks"}])
def test_everything_passes_unchanged_and_provider_stays_here(
    scripted_gateway: Gateway, upstream: ScriptedUpstream, provider: dict[str, str]
) -> None:
    seen = post_chat(scripted_gateway, PREFIX + "all", **EVERYTHING, **provider)
    assert sent_of(upstream).json == {"model": PREFIX + "all", **EVERYTHING}
    assert seen.status == 200 and "x-gateway-dropped-params" not in seen.headers


def test_no_default_is_put_in(scripted_gateway: Gateway, upstream: ScriptedUpstream) -> None:
    post_chat(scripted_gateway, PREFIX + "bare")
    assert sent_of(upstream).json == chat_body(PREFIX + "bare")


def test_a_stream_asks_for_usage_and_keeps_its_other_options(
    scripted_gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    upstream.default = sse_stream(whole_stream("one"))
    post_chat(scripted_gateway, PREFIX + "s", stream=True, stream_options={"include_usage": False, "other": 1})
    assert sent_of(upstream).json["stream_options"] == {"include_usage": True, "other": 1}


def test_what_fireworks_would_refuse_is_left_out_and_named(
    scripted_gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    messages = [{"role": "user", "content": "Hello!", "name": "ann"}, {"role": "user", "content": "?", "name": "bob"}]
    body = {"store": True, "service_tier": "scale", "verbosity": "low", "metadata": {"a": "b"}, "messages": messages}
    seen = post_chat(scripted_gateway, PREFIX + "dropped", **body)
    kept = {"metadata": {"a": "b"}, "messages": [{"role": "user", "content": text} for text in ("Hello!", "?")]}
    assert sent_of(upstream).json == {"model": PREFIX + "dropped"} | kept
    dropped = seen.headers["x-gateway-dropped-params"].split(", ")
    assert sorted(dropped) == ["messages[].name", "service_tier", "store", "verbosity"]


def test_a_service_tier_of_fireworks_own_passes(scripted_gateway: Gateway, upstream: ScriptedUpstream) -> None:
    post_chat(scripted_gateway, PREFIX + "tier", service_tier="priority")
    assert sent_of(upstream).json["service_tier"] == "priority"


def test_a_parameter_that_nobody_knows_comes_back_as_the_providers_own_400(
    scripted_gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    said = {"error": {"message": "Extra inputs are not permitted, field: 'x'", "param": "x", "code": "BAD"}}
    upstream.on_model("strict", json_answer(said, 400))
    seen = post_chat(scripted_gateway, PREFIX + "strict", x=1)
    assert (seen.status, seen.error["param"]) == (400, "x")
    assert seen.error["message"].startswith("Extra inputs are not permitted")


def test_the_provider_gets_the_gateways_key_and_none_of_the_clients_headers(
    scripted_gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    canaries = {
        "Cookie": "canary=1",
        "X-Forwarded-For": "203.0.113.9",
        "User-Agent": "canary/1",
        "X-Api-Key": "canary",
        "Origin": "https://canary.example",
        "Fireworks-Session": "canary",
        "Proxy-Authorization": "canary",
        "OpenAI-Organization": "canary",
        "Accept-Encoding": "br",
    }
    post(scripted_gateway, json.dumps(chat_body(PREFIX + "headers")).encode(), headers=canaries)
    headers = sent_of(upstream).headers
    assert headers["authorization"] == "Bearer fw_test"
    assert headers["host"] == f"127.0.0.1:{upstream.port}" and headers["accept-encoding"] == "identity"
    assert scripted_gateway.key not in str(headers) and "canary" not in str(headers) and "203.0" not in str(headers)


def test_a_chunked_body_is_taken_like_any_other(scripted_gateway: Gateway, upstream: ScriptedUpstream) -> None:
    content = json.dumps(chat_body(PREFIX + "chunked")).encode()
    assert post(scripted_gateway, iter([content[:9], content[9:]])).status == 200
    assert sent_of(upstream).json["model"] == PREFIX + "chunked"


@pytest.mark.parametrize(
    "asked",
    ["scripted", "fireworks/scripted", "Fireworks/Scripted", "accounts/fireworks/scripted", PREFIX + "scripted"],
)
def test_a_model_is_found_by_the_names_people_write(
    scripted_gateway: Gateway, upstream: ScriptedUpstream, asked: str
) -> None:
    seen = post_chat(scripted_gateway, asked)
    assert seen.headers["x-gateway-model"] == PREFIX + "scripted" == sent_of(upstream).json["model"]


def test_limits_of_the_provider_are_shown_and_its_other_headers_are_not(
    scripted_gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    shown = {"x-ratelimit-remaining-requests": "41", "fireworks-prompt-tokens": "11"}
    hidden = {"set-cookie": "a=b", "cf-ray": "1", "x-envoy-upstream-service-time": "9", "alt-svc": "h3"}
    body = {"id": "c", "choices": [{"message": {"content": "hi"}}]}
    upstream.on_model("shown", json_answer(body, headers=shown | hidden))
    seen = post_chat(scripted_gateway, PREFIX + "shown")
    assert shown.items() <= seen.headers.items() and not hidden.keys() & seen.headers.keys()


@pytest.mark.parametrize("served", ["modèle 🌍", "line\r\nset-cookie: a=b", "x" * 20_000, ""])
@pytest.mark.parametrize("stream", [False, True])
def test_a_strange_model_name_in_the_answer_harms_nothing(
    scripted_gateway: Gateway, upstream: ScriptedUpstream, served: str, stream: bool
) -> None:
    events = whole_stream("hi")
    for event in events:
        if isinstance(event, dict):
            event["model"] = served
    upstream.on_model("strange", sse_stream(events) if stream else chat_answer("hi", model=served))
    seen = post_chat(scripted_gateway, PREFIX + "strange", stream=stream)
    assert (seen.status, seen.cut) == (200, False) and "set-cookie" not in seen.headers
    assert b"hi" in seen.body
    assert wait_until(lambda: scripted_gateway.log().count(seen.request_id), what="its line in the log") == 1


def test_a_model_name_that_is_not_ascii_reaches_the_provider(
    scripted_gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    upstream.default = sse_stream(whole_stream("hi"))
    seen = post_chat(scripted_gateway, PREFIX + "モデル", stream=True)
    assert (seen.status, seen.cut) == (200, False) and sent_of(upstream).json["model"] == PREFIX + "モデル"
