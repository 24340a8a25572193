"""Responses that a client sends back as history, and roles and options of OpenAI's newer models, reach a provider."""

from __future__ import annotations

from typing import Any

import pytest

from tests.routes.test_chat_openai_client import TOOLS, WEATHER, openai_client
from tests.support.answers import json_answer
from tests.support.chat import HELLO, PREFIX, Seen, post_chat
from tests.support.gateway import Gateway
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.sdks import openai

MODEL = PREFIX + "deepseek-v3p1"
CALL = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}

# Fields that SDKs, frameworks and other providers add to a message of the assistant.
FOREIGN_FIELDS: dict[str, Any] = {
    "refusal": None,
    "annotations": [],
    "audio": None,
    "function_call": None,
    "parsed": {"city": "Oslo"},
    "reasoning": "Hm.",
    "reasoning_details": [{"type": "reasoning.text", "text": "Hm."}],
    "thinking_blocks": [{"type": "thinking", "thinking": "Hm.", "signature": ""}],
    "provider_specific_fields": {"a": 1},
    "cache_control": {"type": "ephemeral"},
    "id": "msg_1",
    "name": "assistant",
}


def dropped_of(seen: Seen) -> set[str]:
    return set(seen.headers.get("x-gateway-dropped-params", "").split(", ")) - {""}


def sent_of(upstream: ScriptedUpstream) -> dict[str, Any]:
    """Returns the body of the one chat request that reached the provider."""
    (seen,) = [seen for seen in upstream.requests if seen.path.endswith("/chat/completions")]
    body: dict[str, Any] = seen.json
    return body


def test_a_response_of_the_openai_sdk_is_history_for_the_next_turn(gateway: Gateway) -> None:
    messages: list[Any] = list(HELLO)
    with openai_client(gateway) as client:
        for text in ("And then?", "And after that?"):
            answer = client.chat.completions.create(model=MODEL, messages=messages)
            messages.append(answer.choices[0].message.model_dump())
            messages.append({"role": "user", "content": text})
        assert "refusal" in messages[1] and "And then?" in answer.choices[0].message.content


def test_a_tool_call_of_the_openai_sdk_is_history_for_the_next_turn(gateway: Gateway) -> None:
    with openai_client(gateway) as client:
        answer = client.chat.completions.create(model=MODEL, messages=WEATHER, tools=TOOLS)
        message = answer.choices[0].message.model_dump()
        result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "Rain."}
        last = client.chat.completions.create(model=MODEL, messages=[*WEATHER, message, result], tools=TOOLS)
    assert last.choices[0].finish_reason == "stop"


def test_what_fireworks_forbids_in_a_message_is_left_out_at_every_level_and_named(
    scripted_gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    cached = {"cache_control": {"type": "ephemeral"}}
    call = CALL | {"provider_specific_fields": {"a": 1}, "function": CALL["function"] | {"thought_signature": "x"}}
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "format": "png"}}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "Hi"} | cached, image], "name": "ann"},
        {"role": "assistant", "content": None, "reasoning_content": "Hm.", "tool_calls": [call]} | FOREIGN_FIELDS,
        {"role": "tool", "tool_call_id": "c", "content": "Rain."},
    ]
    seen = post_chat(scripted_gateway, PREFIX + "levels", messages=messages)
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    assert sent_of(upstream)["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "Hi"}, image]},
        {"role": "assistant", "content": None, "reasoning_content": "Hm.", "tool_calls": [CALL]},
        messages[2],
    ]
    assert dropped_of(seen) == {f"messages[].{name}" for name in FOREIGN_FIELDS} | {
        "messages[].content[].cache_control",
        "messages[].content[].image_url.format",
        "messages[].tool_calls[].provider_specific_fields",
        "messages[].tool_calls[].function.thought_signature",
    }


@pytest.mark.parametrize("kind", ["file", "input_audio", "thinking"])
def test_content_of_a_kind_that_fireworks_lacks_is_not_left_out(
    scripted_gateway: Gateway, upstream: ScriptedUpstream, kind: str
) -> None:
    messages = [{"role": "user", "content": [{"type": kind, kind: {"data": "AAAA"}}, {"type": "text", "text": "Hi"}]}]
    seen = post_chat(scripted_gateway, PREFIX + "kinds", messages=messages)
    assert sent_of(upstream)["messages"] == messages and dropped_of(seen) == set()


def test_options_of_openai_and_anthropic_are_left_out_and_misspelt_ones_are_not(
    scripted_gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    tool = TOOLS[0] | {"cache_control": {"type": "ephemeral"}, "eager_input_streaming": True}
    options = {"stream_options": {"include_usage": False, "include_obfuscation": False, "include_usge": True}}
    foreign = {"prompt_cache_options": {}, "cache_control": {}, "context_management": {}, "reasoning": {}}
    seen = post_chat(scripted_gateway, PREFIX + "options", tools=[tool], temprature=1, **options, **foreign)
    sent = sent_of(upstream)
    assert (sent["tools"], sent["temprature"], foreign.keys() & sent.keys()) == (TOOLS, 1, set())
    assert sent["stream_options"] == {"include_usage": False, "include_usge": True}
    nested = {"stream_options.include_obfuscation", "tools[].cache_control", "tools[].eager_input_streaming"}
    assert dropped_of(seen) == foreign.keys() | nested


@pytest.mark.parametrize("stream", [False, True])
def test_options_of_the_openai_sdk_are_served(gateway: Gateway, stream: bool) -> None:
    options = {"include_usage": True, "include_obfuscation": False}
    seen = post_chat(gateway, MODEL, stream=stream, stream_options=options)
    assert (seen.status, dropped_of(seen)) == (200, {"stream_options.include_obfuscation"})


def test_names_that_a_caller_invents_stay_a_short_and_valid_header(
    scripted_gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    strange = {"line\r\nset-cookie: a=b": 1, "ünï": 2, "a, b": 3, "x" * 5_000: 4}
    many = {f"name{number}": number for number in range(2_000)}
    seen = post_chat(scripted_gateway, PREFIX + "names", messages=[HELLO[0] | strange | many])
    assert seen.status == 200 and sent_of(upstream)["messages"] == HELLO
    named = seen.headers["x-gateway-dropped-params"]
    assert "set-cookie" not in seen.headers and len(named) < 4_000 and named.endswith(", ...")
    assert "messages[].%C3%BCn%C3%AF" in named and "messages[].a%2C%20b" in named


def test_the_other_providers_keep_fields_of_messages(gateway_of_four: Gateway) -> None:
    messages = [*HELLO, {"role": "assistant", "content": "Hi."} | FOREIGN_FIELDS, *HELLO]
    for provider in ("featherless", "deepinfra", "chutes"):
        model = _any_model(gateway_of_four, provider)
        seen = post_chat(gateway_of_four, model, provider=provider.title(), messages=messages)
        nulls = {f"messages[].{name}" for name, value in FOREIGN_FIELDS.items() if value is None}
        assert (seen.status, dropped_of(seen)) == (200, nulls if provider == "featherless" else set())


def _any_model(gateway: Gateway, provider: str) -> str:
    with openai_client(gateway) as client:
        path = f"{gateway.url}/api/catalog/models?gateway={provider}&limit=50"
        listed = client.get(path, cast_to=object)
    assert isinstance(listed, dict)
    chatting = [row["id"] for row in listed["data"] if row["capabilities"]["chat"] is not False]
    return str(chatting[0])


ROLES: dict[str, tuple[str, str, set[str]]] = {
    "first": ("d1 u", "s1 u", {"developer->system"}),
    "after a system message": ("s1 d2 u", "s12 u", {"developer->system"}),
    "before a system message": ("d1 s2 u", "s12 u", {"developer->system"}),
    "after a user's message": ("u d1 u", "s1 u u", {"developer->system"}),
    "later": ("s1 u a d2 u", "s1 u a u2 u", {"developer->user"}),
    "both": ("d1 u a d2 u s3", "s1 u a u2 u u3", {"developer->system", "developer->user", "system->user"}),
    "nowhere": ("u s1 a s2 u", "u s1 a s2 u", set()),
}
_NAMES = {"d": "developer", "s": "system", "u": "user", "a": "assistant"}


def messages_of(text: str) -> list[dict[str, str]]:
    """Returns one message for each word: its role, and its numbered texts."""
    return [
        {"role": _NAMES[word[0]], "content": "\n\n".join(f"text {number}" for number in word[1:] or "0")}
        for word in text.split()
    ]


@pytest.mark.parametrize("name", ROLES)
def test_the_role_developer_becomes_one_that_the_provider_knows(
    scripted_gateway: Gateway, upstream: ScriptedUpstream, name: str
) -> None:
    given, expected, applied = ROLES[name]
    seen = post_chat(scripted_gateway, PREFIX + "roles", messages=messages_of(given))
    assert sent_of(upstream)["messages"] == messages_of(expected)
    named = set(seen.headers.get("x-gateway-applied-params", "").split(", ")) - {""}
    assert named == {f"messages[].role={change}" for change in applied}


def test_instructions_in_parts_are_joined_as_texts_unless_there_is_more(
    scripted_gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    part, image = {"type": "text", "text": "one"}, {"type": "image_url", "image_url": {"url": "data:,"}}
    for content, joined in (([part], "one\n\ntwo"), ([part, image], [part, image, {"type": "text", "text": "two"}])):
        upstream.reset_scripts()
        messages = [{"role": "developer", "content": content}, {"role": "system", "content": "two"}, *HELLO]
        post_chat(scripted_gateway, PREFIX + "parts", messages=messages)
        assert sent_of(upstream)["messages"] == [{"role": "system", "content": joined}, *HELLO]


@pytest.mark.parametrize("provider", ["fireworks", "featherless", "deepinfra", "chutes"])
def test_the_role_developer_is_served_by_each_provider(gateway_of_four: Gateway, provider: str) -> None:
    messages = [{"role": "developer", "content": "Be brief."}, *HELLO]
    model = MODEL if provider == "fireworks" else _any_model(gateway_of_four, provider)
    seen = post_chat(gateway_of_four, model, provider=provider, messages=messages)
    assert (seen.status, seen.headers["x-gateway-applied-params"]) == (200, "messages[].role=developer->system")


def test_a_typing_error_is_the_providers_400(scripted_gateway: Gateway, upstream: ScriptedUpstream) -> None:
    said = {"error": {"message": "Extra inputs are not permitted, field: 'max_token'"}}
    upstream.on_model("typo", json_answer(said, 400))
    with openai_client(scripted_gateway) as client, pytest.raises(openai.BadRequestError, match="max_token"):
        client.chat.completions.create(model=PREFIX + "typo", messages=HELLO, extra_body={"max_token": 5})
