"""The documented parameters at their bounds, and what is left out, renamed or passed on for each provider."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import BadRequest
from app.services.inference.parameters import check_parameters, fit_to_provider, stream_options_for
from app.services.providers import PROVIDERS, Provider
from app.services.providers.chutes import PROVIDER as CHUTES
from app.services.providers.deepinfra import PROVIDER as DEEPINFRA
from app.services.providers.featherless import PROVIDER as FEATHERLESS
from app.services.providers.fireworks import OPENAI_ONLY_MESSAGE_FIELDS
from app.services.providers.fireworks import PROVIDER as FIREWORKS
from app.services.providers.provider import OPENAI_ONLY_FIELDS

MESSAGES = [{"role": "user", "content": "hi"}]
GOOD: dict[str, list[Any]] = {
    "max_tokens": [1, 4096, 10**9, 5.0, None],
    "max_completion_tokens": [1, 20480, None],
    "temperature": [0, 0.0, 0.6, 2, 2.0, None],
    "top_p": [0, 0.5, 1, None],
    "top_k": [0, 40, 100, 40.0, None],
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
    "top_k": [-1, 101, 2.5, False, "40"],
    "presence_penalty": [-2.1, 2.1, True, "0"],
    "frequency_penalty": [-3, 3, "0", []],
    "n": [0, 129, 1.5, True, "1"],
    "stream": ["true", 1, 0, {}, "false"],
    "stream_options": [True, [], "include_usage"],
    "service_tier": [[], {}, 1, True],
}


def cases(table: dict[str, list[Any]]) -> list[tuple[str, Any]]:
    return [(name, value) for name, values in table.items() for value in values]


@pytest.mark.parametrize(("name", "value"), cases(GOOD), ids=str)
def test_a_documented_parameter_within_its_bounds_is_taken(name: str, value: Any) -> None:
    check_parameters({"messages": MESSAGES, name: value}, FIREWORKS)


@pytest.mark.parametrize(("name", "value"), cases(BAD), ids=str)
def test_a_documented_parameter_outside_its_bounds_is_a_400_that_names_it(name: str, value: Any) -> None:
    with pytest.raises(BadRequest) as caught:
        check_parameters({"messages": MESSAGES, name: value}, FIREWORKS)
    error = caught.value
    assert (error.status, error.param, error.code) == (400, name, "invalid_parameter")
    assert f"`{name}`" in error.message


@pytest.mark.parametrize("provider", [FEATHERLESS, DEEPINFRA, CHUTES], ids=lambda provider: provider.name)
def test_top_k_of_the_other_providers_may_be_off_and_large(provider: Provider) -> None:
    for value in (-1, 0, 100_000):
        check_parameters({"messages": MESSAGES, "top_k": value}, provider)
    with pytest.raises(BadRequest):
        check_parameters({"messages": MESSAGES, "top_k": -2}, provider)


@pytest.mark.parametrize("messages", [None, [], {}, "hi", 5, ()])
def test_messages_must_be_a_list_of_something(messages: Any) -> None:
    with pytest.raises(BadRequest) as caught:
        check_parameters({"messages": messages}, FIREWORKS)
    assert caught.value.param == "messages"


@pytest.mark.parametrize("message", [None, "hi", 5, ["role"]])
def test_each_message_must_be_an_object(message: Any) -> None:
    with pytest.raises(BadRequest) as caught:
        check_parameters({"messages": [*MESSAGES, message]}, FIREWORKS)
    assert caught.value.param == "messages[1]"


def test_messages_may_not_be_missing() -> None:
    with pytest.raises(BadRequest):
        check_parameters({}, FIREWORKS)


def test_what_fireworks_refuses_is_left_out_and_named() -> None:
    body: dict[str, Any] = {"model": "m", "messages": copy.deepcopy(MESSAGES), "temperature": 1}
    body |= dict.fromkeys(OPENAI_ONLY_FIELDS, True) | {"service_tier": "scale"}
    body["messages"] += [{"role": "assistant", "content": None} | dict.fromkeys(OPENAI_ONLY_MESSAGE_FIELDS, "x")]
    dropped = fit_to_provider(body, FIREWORKS)
    assert body == {
        "model": "m",
        "messages": [*MESSAGES, {"role": "assistant", "content": None}],
        "temperature": 1,
    }
    names = {f"messages[].{name}" for name in OPENAI_ONLY_MESSAGE_FIELDS} | OPENAI_ONLY_FIELDS | {"service_tier"}
    assert set(dropped) == names and len(dropped) == len(names)


def test_a_field_dropped_from_many_messages_is_named_once() -> None:
    body = {"messages": [{"role": "user", "content": "hi", "name": "ann"} for _ in range(5)]}
    assert fit_to_provider(body, FIREWORKS) == ["messages[].name"]


@pytest.mark.parametrize("tier", ["auto", "default", "flex", "priority", None])
def test_the_tiers_that_fireworks_knows_pass(tier: str | None) -> None:
    body = {"messages": MESSAGES, "service_tier": tier}
    assert fit_to_provider(body, FIREWORKS) == [] and body["service_tier"] == tier


@pytest.mark.parametrize("provider", [DEEPINFRA, CHUTES], ids=lambda provider: provider.name)
def test_the_newer_name_of_max_tokens_becomes_the_one_that_is_known(provider: Provider) -> None:
    body: dict[str, Any] = {"messages": MESSAGES, "max_completion_tokens": 7}
    assert fit_to_provider(body, provider) == []
    assert body == {"messages": MESSAGES, "max_tokens": 7}
    both = {"messages": MESSAGES, "max_completion_tokens": 7, "max_tokens": 8}
    fit_to_provider(both, provider)
    assert both["max_tokens"] == 8


NAMES = st.text(max_size=12) | st.sampled_from(["tools", "seed", "logit_bias", "metadata", "reasoning_effort", "user"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(PROVIDERS)),
    st.dictionaries(NAMES, VALUES, max_size=6),
    st.lists(st.dictionaries(NAMES, VALUES, max_size=4), max_size=3),
)
def test_nothing_but_what_is_named_is_changed(
    provider_name: str, extra: dict[str, Any], messages: list[dict[str, Any]]
) -> None:
    provider = PROVIDERS[provider_name]
    body = {**extra, "messages": messages}
    before = copy.deepcopy(body)
    dropped = fit_to_provider(body, provider)
    for name in dropped:
        if name.startswith("messages[]."):
            for message in before["messages"]:
                message.pop(name.removeprefix("messages[]."), None)
        else:
            del before[name]
    for name, new_name in provider.serves["chat"].renamed_fields.items():
        if name in before and new_name not in before:
            before[new_name] = before.pop(name)
    assert repr(sorted(body.items())) == repr(sorted(before.items()))


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ({}, {"include_usage": True}),
        ({"stream_options": None}, {"include_usage": True}),
        ({"stream_options": {"include_usage": False}}, {"include_usage": True}),
        ({"stream_options": {"buffer_ms": 5}}, {"buffer_ms": 5, "include_usage": True}),
    ],
)
def test_usage_is_always_asked_for_and_other_stream_options_stay(asked: Any, sent: Any) -> None:
    assert stream_options_for(asked) == sent
