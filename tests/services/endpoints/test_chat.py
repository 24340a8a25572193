"""The model, usage and finish reasons are read from chat chunks, and a malformed chunk is an error."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import UpstreamCut
from app.services.endpoints import CHAT, EventKind, StreamSummary, Usage


def observe(data: bytes, summary: StreamSummary | None = None) -> EventKind:
    assert CHAT.stream is not None
    return CHAT.stream.observe(data, summary or StreamSummary(), 1000.0)


def test_a_chunk_is_summarized() -> None:
    summary = StreamSummary()
    kind = observe(
        b'{"id": "c", "model": "m", "choices": [{"index": 1, "delta": {"content": "hi"}, "finish_reason": "stop"}],'
        b' "usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8, "prompt_tokens_details":'
        b' {"cached_tokens": 4}, "completion_tokens_details": {"reasoning_tokens": 2}}, "unknown": {"x": [1]}}',
        summary,
    )
    assert kind is EventKind.CONTENT
    assert (summary.model, summary.finish_reason, summary.usage) == ("m", "stop", Usage(5, 3, 4, 2))
    assert (summary.begun, summary.finished) == ({1}, {1})
    assert (summary.events, summary.output_events) == (1, 1)
    assert (summary.first_output_s, summary.last_output_s) == (1000.0, 1000.0)


@pytest.mark.parametrize(
    ("delta", "expected"),
    [
        ({}, False),
        ({"role": "assistant"}, False),
        ({"role": "assistant", "content": ""}, False),
        ({"content": None}, False),
        ({"tool_calls": []}, False),
        ({"content": " "}, True),
        ({"reasoning_content": "hm"}, True),
        ({"reasoning": "hm"}, True),
        ({"tool_calls": [{"index": 0}]}, True),
        ({"function_call": {"name": "f"}}, True),
    ],
)
def test_only_output_of_the_model_counts_as_output(delta: dict[str, Any], expected: bool) -> None:
    summary = StreamSummary()
    observe(json.dumps({"choices": [{"delta": delta}]}).encode(), summary)
    assert summary.output_events == int(expected)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"[DONE]", EventKind.DONE),
        (b"null", EventKind.EMPTY),
        (b"", EventKind.EMPTY),
        (b'{"error": {"message": "x"}}', EventKind.ERROR),
        (b'{"choices": [], "usage": {"prompt_tokens": 1}}', EventKind.USAGE),
        (b'{"usage": {"prompt_tokens": 1}}', EventKind.USAGE),
        (b'{"choices": []}', EventKind.CONTENT),
    ],
)
def test_every_event_has_a_kind(data: bytes, kind: EventKind) -> None:
    assert observe(data) is kind


@pytest.mark.parametrize(
    "data",
    [
        b"[]",
        b'"text"',
        b"{",
        b"<html>",
        b'{"choices": {}}',
        b'{"choices": [null]}',
        b'{"choices": [{"delta": "text"}]}',
        b'{"usage": 5}',
        b'{"model": "\xff"}',
        b'{"choices": [{"delta": {"content": "\xff"}}]}',
        b'{"model": NaN}',
        b'{"deep": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b"{} {}",
    ],
)
def test_a_malformed_chunk_raises_upstream_cut(data: bytes) -> None:
    with pytest.raises(UpstreamCut):
        observe(data)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60))
def test_arbitrary_bytes_raise_nothing_else(data: bytes) -> None:
    try:
        observe(data)
    except UpstreamCut:
        return


@pytest.mark.parametrize(
    ("asked", "sent", "wants_usage"),
    [
        ({}, {"include_usage": True}, False),
        ({"stream_options": None}, {"include_usage": True}, False),
        ({"stream_options": {"include_usage": False}}, {"include_usage": True}, False),
        ({"stream_options": {"include_usage": True}}, {"include_usage": True}, True),
        ({"stream_options": {"buffer_ms": 5}}, {"buffer_ms": 5, "include_usage": True}, False),
    ],
)
def test_usage_is_always_requested_and_other_stream_options_are_kept(asked: Any, sent: Any, wants_usage: bool) -> None:
    assert CHAT.stream is not None
    assert CHAT.stream.wants_usage(asked) is wants_usage
    body = dict(asked)
    CHAT.stream.request_stream(body)
    assert body == {"stream": True, "stream_options": sent}


@pytest.mark.parametrize(
    "response",
    [None, [], "text", {}, {"choices": None}, {"choices": {}}, {"choices": [5]}, {"choices": [{"message": "text"}]}],
)
def test_a_malformed_chat_completion_is_refused(response: Any) -> None:
    with pytest.raises(ValueError, match="chat completion"):
        CHAT.summarize(response)
