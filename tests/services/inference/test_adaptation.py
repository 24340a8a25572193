"""The fields that are removed, renamed, checked or passed on when a body is adapted to a provider."""

from __future__ import annotations

import copy
import json
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import BadRequest
from app.services.endpoints import CHAT, InferenceBody
from app.services.inference.adaptation import UpstreamRequest, adapt
from app.services.providers import PROVIDERS, Provider
from app.services.routing import Target
from tests.support.soak import examples

FIREWORKS = PROVIDERS["fireworks"]
MODEL = "accounts/fireworks/models/deepseek-v3p1"
MESSAGES = [{"role": "user", "content": "hi"}]


def adapt_for(provider: Provider, /, *, stream: bool = False, **body: Any) -> UpstreamRequest:
    """Returns the request for a provider, and fails if the client's own body was changed."""
    given_body = {"model": "asked", "messages": MESSAGES, **body}
    before = copy.deepcopy(given_body)
    fields = InferenceBody(model="asked", stream=stream)
    request = adapt(given_body, fields, CHAT, Target(provider, MODEL))
    assert repr(given_body) == repr(before)
    return request


def sent(request: UpstreamRequest) -> dict[str, Any]:
    """Returns the provider's body without the model."""
    body: dict[str, Any] = json.loads(request.content)
    assert body.pop("model") == MODEL
    return body


def test_the_provider_field_is_not_sent() -> None:
    request = adapt_for(FIREWORKS, provider="fireworks")
    assert sent(request) == {"messages": MESSAGES} and request.dropped == []
    assert (request.path, request.stream) == ("/chat/completions", False)


def test_fields_that_fireworks_refuses_are_removed_and_named() -> None:
    support = FIREWORKS.serves["chat"]
    fields, message_fields = support.dropped_fields, {"name", "refusal", "parsed", "reasoning", "nobody_knows_it"}
    assert {"store", "audio", "web_search_options"} <= fields
    messages = [*MESSAGES, {"role": "assistant", "content": None} | dict.fromkeys(message_fields, "x")]
    request = adapt_for(
        FIREWORKS, temperature=1, service_tier="scale", **(dict.fromkeys(fields, True) | {"messages": messages})
    )
    assert sent(request) == {"messages": [*MESSAGES, {"role": "assistant", "content": None}], "temperature": 1}
    names = {f"messages[].{name}" for name in message_fields} | fields | {"service_tier"}
    assert set(request.dropped) == names and len(request.dropped) == len(names)


def test_a_field_dropped_from_many_messages_is_named_once() -> None:
    messages = [{"role": "user", "content": "hi", "name": "ann"} for _ in range(5)]
    assert adapt_for(FIREWORKS, messages=messages).dropped == ["messages[].name"]


@pytest.mark.parametrize("tier", ["auto", "default", "flex", "priority", None])
def test_the_tiers_that_fireworks_accepts_pass(tier: str | None) -> None:
    request = adapt_for(FIREWORKS, service_tier=tier)
    assert request.dropped == [] and sent(request)["service_tier"] == request.service_tier == tier


@pytest.mark.parametrize("provider", [PROVIDERS["deepinfra"], PROVIDERS["chutes"]], ids=lambda provider: provider.name)
def test_max_completion_tokens_is_renamed_to_max_tokens(provider: Provider) -> None:
    request = adapt_for(provider, max_completion_tokens=7)
    assert request.dropped == [] and sent(request) == {"messages": MESSAGES, "max_tokens": 7}
    assert sent(adapt_for(provider, max_completion_tokens=7, max_tokens=8))["max_tokens"] == 8


@pytest.mark.parametrize("top_k", [-1, 101, 100.5])
def test_top_k_is_checked_against_the_providers_range(top_k: float) -> None:
    with pytest.raises(BadRequest) as caught:
        adapt_for(FIREWORKS, top_k=top_k)
    assert (caught.value.param, caught.value.code) == ("top_k", "invalid_parameter")
    assert caught.value.message == "`top_k` must be a whole number from 0 to 100 for Fireworks."


@pytest.mark.parametrize("name", ["featherless", "deepinfra", "chutes"])
def test_top_k_of_the_other_providers_may_be_off_and_large(name: str) -> None:
    for value in (-1, 0, 100_000, 40.0, None):
        assert sent(adapt_for(PROVIDERS[name], top_k=value))["top_k"] == value
    with pytest.raises(BadRequest):
        adapt_for(PROVIDERS[name], top_k=-2)


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize(("tokens", "streams"), [(4096, False), (4097, True), (20480, True), (None, False)])
def test_fireworks_is_asked_for_a_stream_above_its_unstreamed_limit(
    name: str, tokens: int | None, streams: bool
) -> None:
    request = adapt_for(FIREWORKS, **{name: tokens})
    assert request.stream is streams
    assert sent(request).get("stream") is (True if streams else None) and sent(request)[name] == tokens
    assert adapt_for(PROVIDERS["chutes"], **{name: tokens}).stream is False


@pytest.mark.parametrize(
    ("options", "show_usage"),
    [({}, False), ({"stream_options": {"include_usage": True}}, True), ({"stream_options": {"x": 1}}, False)],
)
def test_a_stream_requests_usage_and_remembers_whether_the_client_did(
    options: dict[str, Any], show_usage: bool
) -> None:
    request = adapt_for(FIREWORKS, stream=True, **options)
    expected = {**options.get("stream_options", {}), "include_usage": True}
    assert sent(request) == {"messages": MESSAGES, "stream": True, "stream_options": expected}
    assert (request.stream, request.show_usage) == (True, show_usage)


@pytest.mark.parametrize(
    ("messages", "estimate"),
    [
        ([{"role": "user", "content": "x" * 40}], 14),
        ([{"role": "user", "content": "x" * 41}, {"role": "assistant", "content": None}], 19),
        ([{"role": "user", "content": [{"type": "text", "text": "x" * 8}, {"type": "image_url"}, 5]}], 6),
        ([{"role": "user"}, {"role": "user", "content": 7}, {"role": "user", "content": [{"text": 3}]}], 12),
    ],
)
def test_the_prompt_is_estimated_from_its_texts(messages: list[Any], estimate: int) -> None:
    assert adapt_for(FIREWORKS, messages=messages).prompt_tokens_estimate == estimate


NAMES = st.text(min_size=1, max_size=9).map("x_".__add__) | st.sampled_from(
    ["tools", "seed", "logit_bias", "metadata", "reasoning_effort", "user", "store", "name", "refusal", "audio"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=examples(60), deadline=None)
@given(
    st.sampled_from(sorted(PROVIDERS)),
    st.dictionaries(NAMES, VALUES, max_size=6),
    st.lists(st.dictionaries(NAMES, VALUES, max_size=4), min_size=1, max_size=3),
)
def test_only_the_fields_that_are_named_are_changed(
    provider_name: str, extra: dict[str, Any], messages: list[dict[str, Any]]
) -> None:
    request = adapt_for(PROVIDERS[provider_name], **extra, messages=messages)
    expected = copy.deepcopy({"messages": messages, **extra})
    nulls_only = not PROVIDERS[provider_name].serves["chat"].accepts_null_in_messages
    for name in map(unquote, request.dropped):
        if name.startswith("messages[]."):
            for message in expected["messages"]:
                if not nulls_only or message.get(name.removeprefix("messages[]."), 0) is None:
                    message.pop(name.removeprefix("messages[]."), None)
        else:
            del expected[name]
    assert repr(sorted(sent(request).items())) == repr(sorted(expected.items()))
