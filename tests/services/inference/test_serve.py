"""The pipeline called as a function, and the record of a request that was served or refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.errors import BadRequest, ConfigurationMissing, GatewayError, NotFound, Unavailable, UpstreamError
from app.runtime import get_component
from app.services.endpoints import CHAT
from app.services.inference import Exchange, GatewayResponse, Pipeline, get_live_requests
from app.services.inference.admission import Admission
from app.services.models import cache, get_model_list
from app.services.providers import PROVIDERS
from app.services.streaming import ClientConnection, Relay
from tests.support.answers import chat_answer, json_answer, sse_stream, whole_stream
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
from tests.support.soak import examples

MODEL = "accounts/fireworks/models/deepseek-v3p1"
MESSAGES = [{"role": "user", "content": "Hello!"}]
BODY: dict[str, Any] = {"model": MODEL, "messages": MESSAGES}


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScriptedUpstream]:
    """Only Fireworks is configured, and its list of one model is loaded."""
    with ScriptedUpstream() as upstream, pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(cache, "REFRESH_SPREAD_S", 0.0)
        upstream.on_path(FIREWORKS_LIST, list_answer(fireworks_rows("deepseek-v3p1")))
        upstream.on_path(PRICES_PATH, list_answer([]))
        journal = {"JOURNAL_DIR": str(tmp_path_factory.mktemp("journal"))}
        with catalogs_of(provider_environment(root_of(upstream), ["fireworks"]) | journal):
            get_model_list(PROVIDERS["fireworks"])
            yield upstream


@pytest.fixture
def upstream(listed: ScriptedUpstream) -> ScriptedUpstream:
    listed.default = chat_answer("hi")
    return listed


def make_exchange() -> Exchange:
    return Exchange(CHAT, "key", ClientConnection(None))


def serve_chat(exchange: Exchange, **more: Any) -> GatewayResponse:
    return get_component(Pipeline).serve(exchange, lambda: json.dumps({**BODY, **more}).encode())


def sent(upstream: ScriptedUpstream) -> Any:
    return json.loads(upstream.requests[-1].body)


@pytest.mark.parametrize("provider", [{}, {"provider": "fireworks"}, {"provider": None}])
def test_the_documented_request_is_sent_without_the_provider_field(
    upstream: ScriptedUpstream, provider: dict[str, Any]
) -> None:
    exchange = make_exchange()
    serve_chat(exchange, **provider)
    assert sent(upstream) == BODY
    record = exchange.record
    assert (record.gateway, record.model_requested, record.stream) == ("fireworks", MODEL, False)
    assert (record.outcome, record.status, exchange.is_sent) == ("ok", 200, True)


def test_a_short_name_is_sent_as_the_id_and_recorded_as_asked(upstream: ScriptedUpstream) -> None:
    exchange = make_exchange()
    serve_chat(exchange, model="deepseek-v3p1")
    assert sent(upstream)["model"] == MODEL
    assert exchange.record.model_requested == "deepseek-v3p1"


@pytest.mark.parametrize(("model", "served"), [(MODEL, MODEL), ("accounts/acme/models/own", None)])
def test_a_model_counts_as_served_once_a_list_or_a_response_contains_it(
    upstream: ScriptedUpstream, model: str, served: str | None
) -> None:
    upstream.default = json_answer({"error": "no"}, 400)
    exchange = make_exchange()
    with pytest.raises(UpstreamError):
        serve_chat(exchange, model=model)
    assert sent(upstream)["model"] == model
    assert (exchange.record.model_requested, exchange.record.model_served) == (model, served)


def test_a_stream_is_counted_until_its_end(upstream: ScriptedUpstream) -> None:
    upstream.default = sse_stream(whole_stream("hi"))
    exchange = make_exchange()
    response = serve_chat(exchange, stream=True)
    assert isinstance(response.body, Relay) and exchange.record.stream is True
    assert get_live_requests() == {False: 0, True: 1}
    list(response.body)
    response.body.close()
    assert get_live_requests() == {False: 0, True: 0} and exchange.record.outcome == "ok"


def test_a_long_response_is_streamed_from_the_provider_and_returned_whole(upstream: ScriptedUpstream) -> None:
    upstream.default = sse_stream(whole_stream("hello ", "world"))
    exchange = make_exchange()
    response = serve_chat(exchange, max_tokens=20480)
    assert isinstance(response.body, bytes)
    assert json.loads(response.body)["choices"][0]["message"]["content"] == "hello world"
    assert sent(upstream)["stream"] is True and exchange.record.stream is False
    assert exchange.record.outcome == "ok" and exchange.record.usage_source == "provider"


@pytest.mark.parametrize(
    ("change", "param", "gateway"),
    [
        ({"model": None}, "model", None),
        ({"model": ""}, "model", None),
        ({"model": 5}, "model", None),
        ({"model": "x" * 301}, "model", None),
        ({"model": "a\nb"}, "model", None),
        ({"provider": 5}, "provider", None),
        ({"provider": ""}, "provider", None),
        ({"provider": "nobody"}, "provider", None),
        ({"messages": []}, "messages", None),
        ({"temperature": 3}, "temperature", None),
        ({"top_k": 101}, "top_k", "fireworks"),
        ({"stream": "yes"}, "stream", None),
        ({"stream": True, "stream_options": 5}, "stream_options", None),
        ({"service_tier": []}, "service_tier", None),
    ],
)
def test_a_refused_request_names_the_field_and_costs_nothing(
    upstream: ScriptedUpstream, change: dict[str, Any], param: str, gateway: str | None
) -> None:
    seen, exchange = len(upstream.requests), make_exchange()
    with pytest.raises(BadRequest) as caught:
        serve_chat(exchange, **change)
    record = exchange.record
    assert caught.value.param == param and len(upstream.requests) == seen
    assert (record.outcome, record.status, record.cost_usd, record.gateway) == ("rejected", 400, "0", gateway)
    assert get_live_requests() == {False: 0, True: 0}


def test_an_unknown_model_and_an_unconfigured_provider_are_refused(upstream: ScriptedUpstream) -> None:
    with pytest.raises(NotFound) as missing:
        serve_chat(make_exchange(), model="deepseek-v3p2")
    assert missing.value.param == "model" and MODEL in missing.value.message
    exchange = make_exchange()
    with pytest.raises(ConfigurationMissing, match="^DeepInfra API key not configured$"):
        serve_chat(exchange, provider="deepinfra")
    assert exchange.record.gateway == "deepinfra"


def test_a_body_that_cannot_be_read_finishes_the_record(upstream: ScriptedUpstream) -> None:
    exchange = make_exchange()

    def read_body() -> bytes:
        raise BadRequest("Broken.", code="invalid_body")

    with pytest.raises(BadRequest):
        get_component(Pipeline).serve(exchange, read_body)
    assert (exchange.record.outcome, exchange.record.error_code) == ("rejected", "invalid_body")


def test_more_requests_than_allowed_are_refused_and_recorded(upstream: ScriptedUpstream) -> None:
    admission = get_component(Admission)
    admission.requests += admission.settings.max_live_requests
    exchange = make_exchange()
    try:
        with pytest.raises(Unavailable, match="its maximum number of requests"):
            serve_chat(exchange)
    finally:
        admission.requests -= admission.settings.max_live_requests
    assert (exchange.record.status, exchange.record.error_code) == (503, "overloaded")
    assert get_live_requests() == {False: 0, True: 0}


def test_an_unexpected_exception_finishes_the_record_too(upstream: ScriptedUpstream) -> None:
    exchange = make_exchange()
    with pytest.raises(ZeroDivisionError):
        get_component(Pipeline).serve(exchange, lambda: bytes(1 // 0))
    assert (exchange.record.outcome, exchange.record.status) == ("rejected", 500)
    assert get_live_requests() == {False: 0, True: 0}


def test_every_release_runs_once_and_the_last_one_first() -> None:
    exchange, order = make_exchange(), list[str]()

    def fail() -> None:
        order.append("fails")
        raise RuntimeError

    exchange.on_finish(lambda: order.append("first"))
    exchange.on_finish(fail)
    exchange.on_finish(lambda: order.append("last"))
    exchange.finish("ok", 200)
    exchange.finish("client_gone", 499)
    assert order == ["last", "fails", "first"]
    assert (exchange.record.outcome, exchange.record.status) == ("ok", 200)


def test_a_finished_request_has_a_start_and_an_end_in_the_journal(upstream: ScriptedUpstream) -> None:
    exchange = make_exchange()
    serve_chat(exchange)
    lines = [
        line
        for segment in Path(exchange.settings.journal_dir).rglob("*.journal")
        for line in segment.read_text().splitlines()
        if exchange.request_id in line
    ]
    assert [line[0] for line in lines] == ["S", "F"]
    assert json.loads(lines[0][1:])["outcome"] == "lost" and json.loads(lines[1][1:])["outcome"] == "ok"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
# Unknown fields, and some that the gateway passes on unchecked.
EXTRAS = st.dictionaries(
    st.text(min_size=1, max_size=9).map("x_".__add__)
    | st.sampled_from(["tools", "seed", "logit_bias", "metadata", "stop"]),
    VALUES,
    max_size=5,
)


@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(EXTRAS, VALUES)
def test_every_other_field_is_sent_upstream_unchanged(
    upstream: ScriptedUpstream, extras: dict[str, Any], content: Any
) -> None:
    body = {**BODY, "messages": [{"role": "user", "content": content, "more": content}], **extras}
    try:
        get_component(Pipeline).serve(make_exchange(), lambda: json.dumps(body).encode())
    except GatewayError as error:
        assert not isinstance(error, BadRequest), error.message
    # Fireworks refuses unknown fields in messages, so the gateway leaves this one out.
    del body["messages"][0]["more"]
    assert repr(sent(upstream)) == repr(body)
