"""The model, usage and finish reasons are read from chat chunks, and a malformed chunk is an error."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import UpstreamCut
from app.services.endpoints import CHAT, EventKind, RepairedEvent, StreamSummary, Usage
from tests.support.soak import examples


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
    observe(json.dumps({"choices": [{"index": 0, "delta": delta}]}).encode(), summary)
    assert summary.output_events == int(expected)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"[DONE]", EventKind.DONE),
        (b"null", EventKind.EMPTY),
        (b"", EventKind.EMPTY),
        (b'{"error": {"message": "x"}}', EventKind.ERROR),
        (b'{"choices": [], "usage": {"prompt_tokens": 1}}', EventKind.USAGE),
        (b'{"choices": []}', EventKind.CONTENT),
        (b'{"choices": [{"index": 0, "delta": {"content": "a"}}], "error": ""}', EventKind.CONTENT),
        (b'{"type": "ping"}', EventKind.OTHER),
        (b'{"usage": null}', EventKind.OTHER),
        (b'{"object": "error", "message": "x"}', EventKind.OTHER),
        (b'{"detail": "x"}', EventKind.OTHER),
        (b'{"choices": null}', EventKind.OTHER),
        (b'{"choices": {}}', EventKind.OTHER),
        (b'{"choices": [null]}', EventKind.OTHER),
        (b"{}", EventKind.OTHER),
        (b"[]", EventKind.OTHER),
        (b"5", EventKind.OTHER),
    ],
)
def test_every_event_has_a_kind(data: bytes, kind: EventKind) -> None:
    assert observe(data) is kind


@pytest.mark.parametrize(
    "data",
    [
        b"[1]",
        b'"text"',
        b"{",
        b"<html>",
        b"\xff",
        b'{"choices": "text"}',
        b'{"choices": {"0": {}}}',
        b'{"choices": [5]}',
        b'{"choices": [{"delta": "text"}]}',
        b'{"model": Nan-}',
        b'{"deep": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b"{} {}",
    ],
)
def test_what_may_have_held_output_is_a_cut(data: bytes) -> None:
    with pytest.raises(UpstreamCut):
        observe(data)


NO_LOGPROB = {"index": 0, "delta": {}, "logprobs": {"logprob": None}}
FAILED = {"error": {"message": 'the generation failed with finish_reason "error"'}}
CALL = [{"index": 0, "delta": {"tool_calls": [{"id": "a", "index": 0}]}}]
DELTA = {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]}


@pytest.mark.parametrize(
    ("data", "repaired"),
    [
        (b" [DONE] ", "[DONE]"),
        (b'\xef\xbb\xbf{"choices": []}', {"choices": []}),
        (b'{"choices": [{"index": 0, "delta": {}, "logprobs": {"logprob": NaN}}]}', None),
        (b'{"choices": [{"index": 0, "delta": {}, "logprobs": {"logprob": -Infinity}}]}', None),
        (b'{"choices": [{"index": 0, "delta": {}, "logprobs": {"logprob": -1e400}}]}', None),
        (
            b'{"choices": [{"index": 0, "delta": {"content": "\xf0\x9f"}}]}',
            [{"index": 0, "delta": {"content": "\ufffd"}}],
        ),
        (
            b'{"choices": [{"index": 0, "delta": null, "finish_reason": "stop"}]}',
            [{"index": 0, "delta": {}, "finish_reason": "stop"}],
        ),
        (b'{"choices": [null, {"index": 0, "delta": {}}]}', [{"index": 0, "delta": {}}]),
        (
            b'{"choices": [{"index": 0, "delta": {}}], "error": {}}',
            {"choices": [{"index": 0, "delta": {}}], "error": None},
        ),
        (
            b'{"choices": [{"index": 0, "delta": {}}], "error": {"code": 0}}',
            {"choices": [{"index": 0, "delta": {}}], "error": None},
        ),
        (b'{"usage": {"prompt_tokens": 1}}', {"choices": [], "usage": {"prompt_tokens": 1}}),
        (b'{"choices": null, "usage": 5}', {"choices": [], "usage": 5}),
        (b'{"choices": [{"index": 0, "delta": {}, "finish_reason": "error", "error": "x"}]}', {"error": "x"}),
        (
            b'{"choices": [{"index": 0, "delta": {}, "finish_reason": null, "error": {"code": 5}}]}',
            {"error": {"code": 5}},
        ),
        (b'{"choices": [{"index": 0, "delta": {}, "finish_reason": "error", "error": {}}]}', FAILED),
        (b'{"choices": [{"delta": {}}, {"delta": {}}]}', [{"delta": {}, "index": 0}, {"delta": {}, "index": 1}]),
        (b'{"choices": [{"index": "2", "delta": {}}]}', [{"index": 2, "delta": {}}]),
        (b'{"choices": [{"index": null, "delta": {}}]}', [{"index": 0, "delta": {}}]),
        (b'{"choices": [{"index": NaN, "delta": {}}]}', [{"index": 0, "delta": {}}]),
        (b'{"choices": [{"index": 0, "delta": {"content": 5}}]}', [{"index": 0, "delta": {"content": "5"}}]),
        (b'{"choices": [{"index": 0, "delta": {"tool_calls": [null]}}]}', [{"index": 0, "delta": {"tool_calls": []}}]),
        (b'{"choices": [{"index": 0, "delta": {"tool_calls": "x"}}]}', [{"index": 0, "delta": {"tool_calls": []}}]),
        (b'{"choices": [{"index": 0, "delta": {"tool_calls": {"id": "a"}}}]}', CALL),
        (b'{"choices": [{"index": 0, "delta": {"tool_calls": [null, {"id": "a"}]}}]}', CALL),
        (b'{"choices": [{"index": 0, "delta": {"tool_calls": [{"id": "a", "index": "0"}]}}]}', CALL),
    ],
)
def test_what_clients_cannot_read_is_repaired_once(data: bytes, repaired: Any) -> None:
    summary = StreamSummary()
    with pytest.raises(RepairedEvent) as caught:
        observe(data, summary)
    assert (summary.events, summary.output_events, summary.usage) == (0, 0, None), "counted when observed again"
    if isinstance(repaired, str):
        assert caught.value.data == repaired.encode()
    else:
        choices = repaired if isinstance(repaired, list) else [NO_LOGPROB]
        expected = repaired if isinstance(repaired, dict) else {"choices": choices}
        assert json.loads(caught.value.data) == expected
    observe(caught.value.data)


WHOLE = {
    "object": "chat.completion",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello there", "tool_calls": [{"id": "a"}, {"id": "b"}]},
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 5, "completion_tokens": 2},
}


def repair(chunk: Any, summary: StreamSummary | None = None) -> dict[str, Any]:
    """Returns the bytes that clients get for a chunk."""
    with pytest.raises(RepairedEvent) as caught:
        observe(json.dumps(chunk).encode(), summary)
    observe(caught.value.data, summary)
    repaired: dict[str, Any] = json.loads(caught.value.data)
    return repaired


def test_a_whole_completion_as_one_event_becomes_a_chunk_with_its_text() -> None:
    summary = StreamSummary()
    repaired = repair(WHOLE, summary)
    calls = [{"id": "a", "index": 0}, {"id": "b", "index": 1}]
    assert repaired["object"] == "chat.completion.chunk"
    assert repaired["choices"] == [
        {
            "index": 0,
            "delta": {"role": "assistant", "content": "Hello there", "tool_calls": calls},
            "finish_reason": "stop",
        }
    ]
    assert (summary.output_events, summary.finished, summary.usage) == (1, {0}, Usage(5, 2))


def test_a_message_that_repeats_a_stream_is_not_sent_again() -> None:
    summary = StreamSummary()
    observe(json.dumps(DELTA).encode(), summary)
    assert repair(WHOLE, summary)["choices"][0]["delta"] == {}


def test_the_text_of_the_older_completions_becomes_content() -> None:
    repaired = repair({"object": "text_completion", "choices": [{"index": 0, "text": "Hello"}]})
    assert repaired == {
        "object": "chat.completion.chunk",
        "choices": [{"index": 0, "delta": {"content": "Hello"}}],
    }


@pytest.mark.parametrize(
    "odd",
    [
        {"choices": [{"index": 0, "delta": {"content": "a" * 2_000_000 + "\ud83d"}}]},
        {"choices": [{"index": "a", "delta": {"content": "a" * 2_000_000}}]},
        {"choices": [{"index": 0, "delta": {"content": "a" * 2_000_000}, "logprobs": float("nan")}]},
        {"choices": [{"index": 0, "delta": {"content": "a" * 2_000_000}}], "usage": {"completion_tokens": -1}},
    ],
)
def test_a_long_odd_chunk_is_read_too(odd: dict[str, Any]) -> None:
    summary = StreamSummary()
    try:
        observe(json.dumps(odd).encode(), summary)
    except RepairedEvent as repaired:
        observe(repaired.data, summary)
    assert (summary.output_events, summary.begun) == (1, {0})


def test_a_number_of_thousands_of_digits_does_no_harm() -> None:
    data = b'{"choices": [{"delta": {"content": %b}}], "more": %b}' % (b"1" * 5_000, b"-" + b"1" * 700)
    with pytest.raises(RepairedEvent) as caught:
        observe(data)
    assert json.loads(caught.value.data)["more"] is None


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"usage": {"prompt_tokens": 11, "completion_tokens": -1}}, Usage(11, None)),
        ({"usage": {"prompt_tokens": 11, "completion_tokens": 10**30}}, Usage(11, None)),
        ({"usage": {"prompt_tokens": 11, "completion_tokens": 3, "prompt_tokens_details": []}}, Usage(11, 3)),
        ({"usage": 10.5}, None),
        ({"usage": "n/a"}, None),
        ({"usage": []}, None),
        ({"model": 5}, None),
        ({"choices": [{"index": 0, "delta": {"content": "\ud83d"}, "finish_reason": None}]}, None),
    ],
)
def test_an_odd_chunk_is_read_field_by_field(more: Any, expected: Usage | None) -> None:
    summary = StreamSummary()
    assert observe(json.dumps(DELTA | more).encode(), summary) is EventKind.CONTENT
    assert (summary.events, summary.output_events, summary.begun, summary.usage) == (1, 1, {0}, expected)


def test_a_usage_keeps_what_the_next_one_lacks() -> None:
    summary = StreamSummary()
    for usage in ({"prompt_tokens": 11}, {"completion_tokens": 2}, {"completion_tokens": 3, "prompt_tokens": -1}):
        observe(json.dumps({"choices": [], "usage": usage}).encode(), summary)
    assert summary.usage == Usage(11, 3)


@settings(max_examples=examples(100), deadline=None)
@given(st.binary(max_size=60))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    with suppress(UpstreamCut, RepairedEvent):
        observe(data)


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
    with pytest.raises(ValueError, match="a response with choices"):
        CHAT.summarize(response)
