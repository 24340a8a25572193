"""Streams with odd events: complete ones stay complete, and errors in odd places become errors of the gateway."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.routes.met import Observed, meet_all
from tests.support.answers import (
    DONE,
    Event,
    chat_answer,
    chunk,
    error_event,
    event_bytes,
    sse_stream,
    usage_chunk,
    usage_of,
)
from tests.support.chat import PREFIX, post_chat, wait_for_row
from tests.support.gateway import Gateway
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.scripts import Script, pause

END = chunk(finish="stop")
# Counted tokens: six letters make two, and the message around them four; one event has output.
COUNTED = (6, 1, "counted")
KNOWN = (11, 3, "provider")


def with_usage(usage: Any) -> list[Event]:
    return [chunk("one"), END, {**usage_chunk(), "usage": usage}, DONE]


def with_logprob(number: str) -> list[Event]:
    choice = {"index": 0, "delta": {"content": "one"}, "logprobs": {"content": [{"logprob": "here"}]}}
    first = event_bytes(chunk() | {"choices": [choice]})
    return [first.replace(b'"here"', number.encode()), END, usage_chunk(), DONE]


def with_error(error: Any) -> list[Event]:
    return [chunk("one") | {"error": error}, END, usage_chunk(), DONE]


def with_event(event: Event) -> list[Event]:
    return [event, chunk("one"), event, END, usage_chunk(), DONE]


def with_end(end: bytes) -> list[Event]:
    return [chunk("one"), END, usage_chunk(), end]


@dataclass
class Whole:
    """A stream that is complete, its text, and (prompt, completion) tokens and their source on the row."""

    script: Script = field(init=False)
    events: list[Event]
    counted: tuple[int, int, str] = KNOWN
    text: str = "one"
    ending: str = "end"

    def __post_init__(self) -> None:
        self.script = sse_stream(self.events, ending=self.ending)


WHOLE = {
    "usage: completion_tokens -1": Whole(with_usage(usage_of(11, -1)), (11, 1, "counted")),
    "usage: completion_tokens -400": Whole(with_usage(usage_of(11, -400)), (11, 1, "counted")),
    "usage: completion_tokens 10^13": Whole(with_usage(usage_of(11, 10**13)), (11, 1, "counted")),
    "usage: completion_tokens 10^30": Whole(with_usage(usage_of(11, 10**30)), (11, 1, "counted")),
    "usage: prompt_tokens 1e300": Whole(with_usage(usage_of(11, 3) | {"prompt_tokens": 1e300}), (6, 3, "counted")),
    "usage: 10.5": Whole(with_usage(10.5), COUNTED),
    "usage: text": Whole(with_usage("n/a"), COUNTED),
    "usage: a list": Whole(with_usage([]), COUNTED),
    "usage: true": Whole(with_usage(usage_of(11, 3) | {"completion_tokens": True}), (11, 1, "counted")),
    "usage: details are a list": Whole(with_usage(usage_of(11, 3, prompt_tokens_details=[]))),
    "usage: 3.5 cached tokens": Whole(with_usage(usage_of(11, 3, prompt_tokens_details={"cached_tokens": 3.5}))),
    "usage: in two parts": Whole(
        [chunk("one", usage={"prompt_tokens": 11}), END, usage_chunk({"completion_tokens": 3}), DONE]
    ),
    "half an emoji in each of two deltas": Whole(
        [
            *(b'data: {"choices":[{"index":0,"delta":{"content":"\\u%s"}}]}\n\n' % half for half in (b"d83d", b"de00")),
            *(END, usage_chunk(), DONE),
        ],
        text="\ud83d\ude00",
    ),
    "a character's first byte in a delta": Whole(
        [b'data: {"choices": [{"delta": {"content": "a\xf0"}}]}\n\n', END, usage_chunk(), DONE], text="a\ufffd"
    ),
    "NaN": Whole(with_logprob("NaN")),
    "-Infinity": Whole(with_logprob("-Infinity")),
    "1e400": Whole(with_logprob("1e400")),
    "[DONE] without a blank line": Whole(with_end(b"data: [DONE]")),
    "[DONE] with one line end": Whole(with_end(b"data: [DONE]\n")),
    "[DONE] with one line end, then FIN": Whole(with_end(b"data: [DONE]\n"), ending="fin"),
    "[DONE] with one CRLF": Whole(with_end(b"data: [DONE]\r\n")),
    "[DONE] with CRLF": Whole(with_end(b"data: [DONE]\r\n\r\n")),
    "[DONE] with spaces": Whole(with_end(b"data: [DONE]  \n\n")),
    "a byte order mark first": Whole([b"\xef\xbb\xbf" + event_bytes(chunk("one")), END, usage_chunk(), DONE]),
    "error: null": Whole(with_error(None)),
    "error: false": Whole(with_error(False)),
    "error: {}": Whole(with_error({})),
    "error: []": Whole(with_error([])),
    "error: empty text": Whole(with_error("")),
    "a ping": Whole(with_event(b'event: ping\ndata: {"type": "ping"}\n\n')),
    "a ping that is no JSON": Whole(with_event(b"event: ping\ndata: 12:00\n\n")),
    "a ping without data": Whole(with_event(b": ping\nevent: ping\n\n")),
    "choices: null": Whole(with_event({"id": "c", "object": "chat.completion.chunk", "choices": None})),
    "choices missing": Whole(with_event({"id": "c", "object": "chat.completion.chunk"})),
    "choices: [null]": Whole(with_event({"id": "c", "choices": [None]})),
    "usage without choices": Whole([chunk("one"), END, {"usage": usage_of(11, 3)}, DONE]),
    "a choice without a delta": Whole([chunk("one"), b'data: {"choices": [{"finish_reason": "stop"}]}\n\n']
        + [usage_chunk(), DONE]),
    "a finish reason that is no text": Whole([chunk("one"), chunk() | {"choices": [{"delta": {}, "finish_reason": 2}]}]
        + [usage_chunk(), DONE]),
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(
    scripted_gateway: Gateway, shared_upstream: ScriptedUpstream, session_database_url: str
) -> dict[str, Observed[Whole]]:
    """The result of each complete stream, by its name."""
    shared_upstream.reset_scripts()
    return meet_all(scripted_gateway, shared_upstream, session_database_url, WHOLE, stream=True)


def refuse_constant(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


@pytest.mark.parametrize("name", WHOLE)
def test_a_complete_stream_with_odd_events_is_complete_and_every_client_can_read_it(
    whole: dict[str, Observed[Whole]], name: str
) -> None:
    stream, seen, row = whole[name]
    assert (seen.status, seen.cut, seen.events[-1]) == (200, False, b"data: [DONE]")
    assert b"Infinity" not in seen.body and b"e400" not in seen.body
    text = ""
    for event in seen.events[:-1]:
        if event.startswith(b":"):
            assert event == b": keep-alive"
            continue
        shown = json.loads(event.removeprefix(b"data: ").decode(), parse_constant=refuse_constant)
        assert not shown.get("error") and shown.get("error") not in ({}, [])
        # Reads the text as programs do that follow OpenAI's documentation.
        text += shown["choices"][0]["delta"].get("content") or ""
    assert text == stream.text
    assert (row["outcome"], row["status"], row["error_type"]) == ("ok", 200, None)
    assert (row["prompt_tokens"], row["completion_tokens"], row["usage_source"]) == stream.counted


def test_bytes_that_json_allows_pass_unchanged(whole: dict[str, Observed[Whole]]) -> None:
    stream, seen, _ = whole["half an emoji in each of two deltas"]
    assert seen.body == b"".join(event_bytes(event) for event in stream.events if not callable(event)).replace(
        event_bytes(usage_chunk()), b""
    )


@pytest.mark.parametrize("name", ["NaN", "-Infinity", "1e400"])
def test_numbers_that_some_clients_cannot_read_are_null(whole: dict[str, Observed[Whole]], name: str) -> None:
    shown = json.loads(whole[name].seen.events[0].removeprefix(b"data: "))
    assert shown["choices"][0]["logprobs"] == {"content": [{"logprob": None}]}


def test_what_is_no_chunk_becomes_a_comment(whole: dict[str, Observed[Whole]]) -> None:
    for name in ("a ping", "a ping that is no JSON", "choices: null", "choices missing", "choices: [null]"):
        assert whole[name].seen.events.count(b": keep-alive") == 2, name
    assert b"ping" not in whole["a ping"].seen.body and b"ping" not in whole["a ping without data"].seen.body


@dataclass
class Failed:
    """An error that the provider reports in a stream, and the client's error if it is the first event."""

    event: Event
    status: int
    type: str
    words: str
    script: Script = field(init=False)

    def __post_init__(self) -> None:
        self.script = sse_stream([self.event, chunk("after"), END, DONE])


ERRORS = {
    "an object with a status": Failed(error_event("Busy."), 503, "upstream_error", "Busy."),
    "a rate limit": Failed({"error": {"message": "Slow down", "code": "429"}}, 429, "rate_limit_error", "Slow down"),
    "a text": Failed({"error": "It broke"}, 502, "upstream_error", "It broke"),
    "object: error": Failed(
        {"object": "error", "message": "Too long", "code": 400}, 400, "invalid_request_error", "Too long"
    ),
    "detail": Failed({"detail": "It broke"}, 502, "upstream_error", "It broke"),
    "event: error, flat": Failed(
        b'event: error\ndata: {"message": "Too long", "code": 400}\n\n', 400, "invalid_request_error", "Too long"
    ),
    "event: error, text": Failed(b"event: error\ndata: It broke\n\n", 502, "upstream_error", "It broke"),
    "flat, without a name": Failed({"message": "Busy", "code": 503}, 503, "upstream_error", "Busy"),
    "a bare line": Failed(b'{"error": "It broke"}\n\n', 502, "upstream_error", "It broke"),
    "finish_reason: error": Failed(chunk(finish="error"), 502, "upstream_error", "finish_reason"),
    "half an emoji": Failed(
        b'data: {"error": {"message": "Bad \\ud83d", "code": 400}}\n\n', 400, "invalid_request_error", "Bad \ufffd"
    ),
    "a refused key": Failed(
        {"error": {"message": "Key fw_REPLACE_ME of acme is invalid", "code": 401}},
        401,
        "upstream_authentication_error",
        "FIREWORKS_API_KEY",
    ),
}


@pytest.fixture(scope="module")
def failed(
    scripted_gateway: Gateway, shared_upstream: ScriptedUpstream, session_database_url: str
) -> dict[str, Observed[Failed]]:
    """The result of each error that is the first event, by its name."""
    shared_upstream.reset_scripts()
    return meet_all(scripted_gateway, shared_upstream, session_database_url, ERRORS, stream=True)


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_as_the_first_event_is_an_http_error(failed: dict[str, Observed[Failed]], name: str) -> None:
    error, seen, row = failed[name]
    assert (seen.status, seen.error["type"]) == (error.status, error.type)
    assert error.words in seen.error["message"] and b"fw_REPLACE_ME" not in seen.body
    assert seen.headers["content-type"] == "application/json"
    assert (row["outcome"], row["status"], row["error_type"]) == ("upstream_error", error.status, error.type)
    assert (row["usage_source"], row["upstream_status"]) == ("none", 200)


@pytest.mark.parametrize("before", [chunk("one"), b": the model is loading\n\n"])
def test_an_error_after_the_response_has_begun_is_the_gateways_own_event(
    scripted_gateway: Gateway, upstream: ScriptedUpstream, session_database_url: str, before: Event
) -> None:
    secret = {"message": "Rate limit of fw_REPLACE_ME reached", "code": 429, "account": "acme", "host": "10.0.0.7"}
    upstream.on_model("late-error", sse_stream([before, pause(0.1), {"error": secret}, DONE]))
    seen = post_chat(scripted_gateway, PREFIX + "late-error", stream=True)
    assert seen.status == 200 and seen.cut and len(seen.events) == 2
    assert seen.error.keys() == {"message", "type", "param", "code"}
    assert (seen.error["type"], seen.error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    assert "fw_[redacted]" in seen.error["message"]
    assert not any(word in seen.body for word in (b"REPLACE_ME", b"acme", b"10.0.0.7"))
    row = wait_for_row(session_database_url, seen.request_id)
    assert (row["outcome"], row["status"], row["error_code"]) == ("upstream_error", 200, "rate_limit_exceeded")


@pytest.mark.parametrize("completion", [-1, 10**13, 10**30, "?", None])
def test_a_whole_answer_with_half_a_usage_keeps_the_good_half(
    scripted_gateway: Gateway, upstream: ScriptedUpstream, session_database_url: str, completion: Any
) -> None:
    usage = {"prompt_tokens": 11, "completion_tokens": completion, "prompt_tokens_details": {"cached_tokens": 4}}
    upstream.on_model("half-usage", chat_answer("Sixteen letters.", usage=usage))
    seen = post_chat(scripted_gateway, PREFIX + "half-usage")
    assert seen.status == 200 and seen.json["choices"][0]["message"]["content"] == "Sixteen letters."
    row = wait_for_row(session_database_url, seen.request_id)
    assert (row["prompt_tokens"], row["completion_tokens"], row["cached_tokens"]) == (11, 4, 4)
    assert (row["outcome"], row["usage_source"]) == ("ok", "counted")
