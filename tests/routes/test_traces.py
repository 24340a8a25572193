"""Traces: `traceparent` reaches provider and record, and spans reach a collector with the conventions' names."""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests

from tests.conftest import MakeGateway
from tests.support.answers import json_answer
from tests.support.chat import PREFIX, Seen, chat_body, post, request, rows_where, wait_for_row
from tests.support.gateway import Gateway
from tests.support.otlp_receiver import running_otlp_receiver
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.soak import soak_only
from tests.support.waiting import wait_until

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SERVER, CLIENT = 2, 3  # SpanKind
UNSET, ERROR = 0, 2  # StatusCode


def ask(gateway: Gateway, model: str, headers: dict[str, str], **more: Any) -> Seen:
    return post(gateway, json.dumps(chat_body(PREFIX + model, **more)).encode(), headers=headers)


def test_the_trace_of_the_client_reaches_the_provider_and_the_record(
    scripted_gateway: Gateway, upstream: ScriptedUpstream, session_database_url: str
) -> None:
    valid = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "vendor=1"}
    seen = ask(scripted_gateway, "traced", valid)
    sent = upstream.calls[-1].headers
    # A gateway without spans passes the header on: the provider's parent is the client's span.
    assert (sent["traceparent"], sent["tracestate"]) == (valid["traceparent"], "vendor=1")
    assert wait_for_row(session_database_url, seen.request_id)["trace_id"] == TRACE
    url, headers = f"{scripted_gateway.url}/api/activity/{seen.request_id}", scripted_gateway.headers
    assert request("GET", url, headers=headers).json["data"]["trace_id"] == TRACE
    with requests.Session() as session:
        session.headers["Origin"] = scripted_gateway.url
        session.post(f"{scripted_gateway.url}/dashboard/sign-in", data={"key": scripted_gateway.key}, timeout=30)
        assert TRACE in session.get(f"{scripted_gateway.url}/dashboard/requests/{seen.request_id}", timeout=30).text

    malformed = ask(scripted_gateway, "traced", {"traceparent": f"00-{TRACE}-{SPAN}", "tracestate": "vendor=1"})
    sent = upstream.calls[-1].headers
    version, trace_id, _, flags = sent["traceparent"].split("-")
    assert (version, flags) == ("00", "02") and trace_id != TRACE and "tracestate" not in sent
    assert wait_for_row(session_database_url, malformed.request_id)["trace_id"] == trace_id

    plain = ask(scripted_gateway, "traced", {})
    assert upstream.calls[-1].headers.keys() & {"traceparent", "tracestate"} == set()
    assert wait_for_row(session_database_url, plain.request_id)["trace_id"] is None
    refused = post(scripted_gateway, b"{", headers=valid)
    assert refused.status == 400 and wait_for_row(session_database_url, refused.request_id)["trace_id"] == TRACE


@soak_only("routes/test_traces.py::test_the_trace_of_the_client_reaches_the_provider_and_the_record")
def test_spans_reach_a_collector_with_the_names_of_the_conventions(
    make_gateway: MakeGateway, upstream: ScriptedUpstream, database_url: str
) -> None:
    gen_ai = pytest.importorskip("opentelemetry.semconv._incubating.attributes.gen_ai_attributes")
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
    served = json_answer({"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage})
    upstream.on_model("served", served)
    upstream.on_model("broken", json_answer({"error": {"message": "boom"}}, 503))
    with running_otlp_receiver() as collector:
        settings = upstream.settings | {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "UPSTREAM_RETRIES": "1"}
        gateway = make_gateway(settings | {"OTEL_BSP_SCHEDULE_DELAY": "100", "OTEL_SERVICE_NAME": "ours"})
        seen = ask(gateway, "served", {"traceparent": f"00-{TRACE}-{SPAN}-01"})
        wait_until(lambda: len(collector.of_trace(TRACE)) == 2, what="two spans")
        own, call = collector.of_trace(TRACE)
        assert (own["name"], own["kind"], own["parent_id"], own["status"]) == (
            "POST /v1/chat/completions", SERVER, SPAN, UNSET,
        )  # fmt: skip
        assert own["resource"]["service.name"] == "ours" and own["resource"]["service.version"]
        assert own["attributes"]["gateway.request_id"] == seen.request_id
        assert own["attributes"]["http.response.status_code"] == 200
        model = f"{PREFIX}served"
        assert (call["name"], call["kind"], call["parent_id"]) == (f"chat {model}", CLIENT, own["span_id"])
        assert own["start"] <= call["start"] <= call["end"] <= own["end"]
        # The provider's parent is the span that called it.
        assert upstream.calls[-1].headers["traceparent"] == f"00-{TRACE}-{call['span_id']}-01"
        told = call["attributes"]
        assert (told["gen_ai.operation.name"], told["gen_ai.provider.name"]) == ("chat", "fireworks")
        assert (told["gen_ai.usage.input_tokens"], told["gen_ai.usage.output_tokens"]) == (7, 3)
        assert told["gen_ai.response.finish_reasons"] == ["stop"] and told["gen_ai.request.model"] == model
        known = {getattr(gen_ai, name) for name in dir(gen_ai) if name.startswith("GEN_AI_")}
        assert {name for name in told if name.startswith("gen_ai.")} <= known

        # Without the header, a trace begins here. With an unset flag, nothing is exported and the header is passed on.
        failed = ask(gateway, "broken", {})
        trace_id = str(wait_for_row(database_url, failed.request_id)["trace_id"])
        quiet = f"00-{'a' * 32}-{SPAN}-00"
        ask(gateway, "served", {"traceparent": quiet})
        assert upstream.calls[-1].headers["traceparent"] == quiet
        wait_until(lambda: len(collector.of_trace(trace_id)) == 2, what="two spans")
        own, call = collector.of_trace(trace_id)
        assert (own["parent_id"], own["status"], call["status"]) == ("", ERROR, ERROR)
        assert call["attributes"]["http.response.status_code"] == 503 and call["attributes"]["gateway.attempts"] == 2
        assert call["attributes"]["error.type"] and own["attributes"]["gateway.outcome"] == "upstream_error"
        assert collector.paths == {"/v1/traces"}
        # A stopping worker sends its waiting spans before it ends.
        assert ask(gateway, "served", {"traceparent": f"00-{'b' * 32}-{SPAN}-01"}).status == 200
        gateway.stop()
        assert len(collector.of_trace("b" * 32)) == 2 and collector.of_trace("a" * 32) == []
    assert "Hi" not in str(collector.spans)
    assert rows_where(database_url, "trace_id", "b" * 32)


@soak_only("routes/test_traces.py::test_the_trace_of_the_client_reaches_the_provider_and_the_record")
def test_a_collector_that_is_away_is_logged_and_harms_no_request(
    make_gateway: MakeGateway, upstream: ScriptedUpstream
) -> None:
    settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_BSP_SCHEDULE_DELAY": "100"}
    gateway = make_gateway(upstream.settings | settings)
    assert ask(gateway, "served", {}).status == 200
    wait_until(lambda: '"event":"span_export_failed"' in gateway.log(), what="the line about the collector")
    assert ask(gateway, "served", {}).status == 200 and "Traceback" not in gateway.log()
