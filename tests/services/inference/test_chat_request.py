"""A body becomes a checked request: who serves it, what is sent there, and what the record says of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.errors import BadRequest, ConfigurationMissing, NotFound
from app.services.inference import admission
from app.services.inference.chat_request import ChatRequest, read_chat_request
from app.services.journal.record import Activity, ActivityRow, new_request_id
from app.services.journal.recorder import Recorder
from app.services.models import cache, get_model_list
from app.services.providers.fireworks import PROVIDER as FIREWORKS
from tests.support.catalogs import (
    FIREWORKS_LIST,
    PRICES_PATH,
    catalogs_of,
    fireworks_rows,
    list_answer,
    provider_environment,
    root_of,
)
from tests.support.scripted_upstream import ScriptedUpstream

MODEL = "accounts/fireworks/models/deepseek-v3p1"
BODY: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Hello!"}]}


@pytest.fixture(scope="module")
def fireworks() -> Iterator[None]:
    """Only Fireworks on, with one model, whose list is there."""
    with ScriptedUpstream() as upstream, pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(cache, "REFRESH_SPREAD_S", 0.0)
        upstream.on_path(FIREWORKS_LIST, list_answer(fireworks_rows("deepseek-v3p1")))
        upstream.on_path(PRICES_PATH, list_answer([]))
        with catalogs_of(provider_environment(root_of(upstream), ["fireworks"])):
            get_model_list(FIREWORKS)
            yield


@pytest.fixture
def activity(tmp_path: Path, fireworks: None, monkeypatch: pytest.MonkeyPatch) -> Activity:
    monkeypatch.setattr(admission, "_live", {False: 1, True: 0})
    return make_activity(tmp_path)


def make_activity(place: Path) -> Activity:
    row = ActivityRow(request_id=new_request_id(), started_at="2026-01-01T00:00:00+00:00", key_id="k", endpoint="/x")
    return Activity(Recorder(place), row)


def read(activity: Activity, **more: Any) -> ChatRequest:
    return read_chat_request(json.dumps({**BODY, **more}).encode(), activity)


def sent(request: ChatRequest) -> Any:
    return json.loads(request.body)


@pytest.mark.parametrize("provider", [{}, {"provider": "fireworks"}, {"provider": None}])
def test_the_documented_request_is_sent_without_the_gateways_own_field(
    activity: Activity, provider: dict[str, Any]
) -> None:
    request = read(activity, **provider)
    assert sent(request) == BODY
    assert (request.provider, request.model, request.stream, request.stream_upstream) == (
        FIREWORKS,
        MODEL,
        False,
        False,
    )
    row = activity.row
    assert (row.gateway, row.model_requested, row.model_served, row.stream) == ("fireworks", MODEL, MODEL, False)


def test_a_short_name_is_sent_as_the_id_and_recorded_as_asked(activity: Activity) -> None:
    assert sent(read(activity, model="deepseek-v3p1"))["model"] == MODEL
    assert (activity.row.model_requested, activity.row.model_served) == ("deepseek-v3p1", MODEL)


def test_an_id_that_no_list_has_is_sent_but_not_recorded_as_served(activity: Activity) -> None:
    name = "accounts/acme/models/own"
    assert sent(read(activity, model=name))["model"] == name
    assert (activity.row.model_requested, activity.row.model_served) == (name, None)


@pytest.mark.parametrize(
    ("options", "show_usage"),
    [({}, False), ({"stream_options": {"include_usage": True}}, True), ({"stream_options": {"x": 1}}, False)],
)
def test_a_stream_asks_for_usage_and_remembers_who_else_did(
    activity: Activity, options: dict[str, Any], show_usage: bool
) -> None:
    request = read(activity, stream=True, **options)
    expected = {**options.get("stream_options", {}), "include_usage": True}
    assert sent(request) == {**BODY, "stream": True, "stream_options": expected}
    assert (request.stream, request.stream_upstream, request.show_usage) == (True, True, show_usage)
    assert activity.row.stream is True and admission.get_live() == {False: 0, True: 1}


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize(("tokens", "streams"), [(4096, False), (4097, True), (20480, True), (None, False)])
def test_more_tokens_than_fireworks_gives_at_once_are_streamed_from_it(
    activity: Activity, name: str, tokens: int | None, streams: bool
) -> None:
    request = read(activity, **{name: tokens})
    assert (request.stream, request.stream_upstream) == (False, streams)
    assert sent(request).get("stream") is (True if streams else None) and sent(request)[name] == tokens
    assert activity.row.stream is False and admission.get_live() == {False: 1, True: 0}


def test_what_was_left_out_is_named(activity: Activity) -> None:
    messages = [{"role": "user", "content": "Hello!", "name": "ann"}]
    request = read(activity, messages=messages, store=True, service_tier="scale", unknown={"x": 1})
    assert sent(request) == {**BODY, "unknown": {"x": 1}}
    assert sorted(request.dropped) == ["messages[].name", "service_tier", "store"]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": None}, "model"),
        ({"model": ""}, "model"),
        ({"model": 5}, "model"),
        ({"model": "x" * 501}, "model"),
        ({"model": "a\nb"}, "model"),
        ({"model": "a\x00"}, "model"),
        ({"provider": 5}, "provider"),
        ({"provider": ""}, "provider"),
        ({"provider": "nobody"}, "provider"),
        ({"messages": []}, "messages"),
        ({"temperature": 3}, "temperature"),
        ({"top_k": 101}, "top_k"),
        ({"stream": "yes"}, "stream"),
        ({"stream": True, "stream_options": 5}, "stream_options"),
        ({"service_tier": []}, "service_tier"),
    ],
)
def test_a_request_that_cannot_be_served_names_the_field(
    activity: Activity, change: dict[str, Any], param: str
) -> None:
    with pytest.raises(BadRequest) as caught:
        read(activity, **change)
    assert caught.value.param == param


def test_a_model_that_nobody_serves_and_a_provider_that_is_off(activity: Activity) -> None:
    with pytest.raises(NotFound) as missing:
        read(activity, model="deepseek-v3p2")
    assert missing.value.param == "model" and MODEL in missing.value.message
    with pytest.raises(ConfigurationMissing, match="^DeepInfra API key not configured$"):
        read(activity, provider="deepinfra")


@pytest.mark.parametrize(
    ("messages", "estimate"),
    [
        ([{"role": "user", "content": "x" * 40}], 14),
        ([{"role": "user", "content": "x" * 41}, {"role": "assistant", "content": None}], 19),
        ([{"role": "user", "content": [{"type": "text", "text": "x" * 8}, {"type": "image_url"}, 5]}], 6),
        ([{"role": "user"}, {"role": "user", "content": 7}, {"role": "user", "content": [{"text": 3}]}], 12),
    ],
)
def test_the_prompt_is_estimated_from_its_texts(activity: Activity, messages: list[Any], estimate: int) -> None:
    assert read(activity, messages=messages).prompt_tokens_estimate == estimate


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
# Fields that the gateway does not know, and some that it passes on without a look.
EXTRAS = st.dictionaries(
    st.text(min_size=1, max_size=9).map("x_".__add__)
    | st.sampled_from(["tools", "seed", "logit_bias", "metadata", "stop"]),
    VALUES,
    max_size=5,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(EXTRAS, VALUES)
def test_every_other_field_goes_upstream_as_it_came(activity: Activity, extras: dict[str, Any], content: Any) -> None:
    body = {**BODY, "messages": [{"role": "user", "content": content, "more": content}], **extras}
    request = read_chat_request(json.dumps(body).encode(), activity)
    assert repr(sent(request)) == repr(body) and request.dropped == []
