"""Answers in another form than was requested: errors with status 200, odd JSON, JSON in place of events, and events."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pytest

from tests.routes.met import Observed, meet_all
from tests.support.answers import (
    DONE,
    Event,
    chat_answer,
    chunk,
    head,
    json_answer,
    sse_stream,
    usage_of,
    whole_stream,
)
from tests.support.chat import PREFIX, Seen, post, post_chat, wait_for_row
from tests.support.gateway import Gateway
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.scripts import Script, pause, send
from tests.support.sdks import openai

COMPLETION: dict[str, Any] = {
    "id": "c-1",
    "object": "chat.completion",
    "created": 1_795_348_800,
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}],
    "usage": usage_of(11, 3),
}


def ask(gateway: Gateway, upstream: ScriptedUpstream, script: Script, **more: Any) -> Seen:
    upstream.on_model("odd", script)
    return post_chat(gateway, PREFIX + "odd", **more)


class Reported(NamedTuple):
    """An error with status 200, and the client's error: status, type, code, and `x-should-retry`."""

    document: Any
    status: int
    kind: str
    code: str | None
    should_retry: str | None

    @property
    def script(self) -> Script:
        return json_answer(self.document)


REPORTED = {
    "a rate limit": Reported(
        {"error": {"message": "Slow down.", "code": 429}}, 429, "rate_limit_error", "rate_limit_exceeded", None
    ),
    "a text as code": Reported(
        {"error": {"message": "Slow down.", "code": "rate_limit_exceeded"}},
        429,
        "rate_limit_error",
        "rate_limit_exceeded",
        None,
    ),
    "vLLM's": Reported(
        {"object": "error", "message": "Too long.", "type": "BadRequestError", "param": "messages", "code": 400},
        400,
        "invalid_request_error",
        "400",
        "false",
    ),
    "FastAPI's": Reported({"detail": "No such thing."}, 502, "upstream_error", None, "false"),
    "Anthropic's": Reported(
        {"type": "error", "error": {"type": "overloaded_error", "message": "Busy."}}, 503, "upstream_error", None, None
    ),
    "a text": Reported({"error": "It broke."}, 502, "upstream_error", None, "false"),
    "the gateway's key": Reported(
        {"error": {"message": "Bad key.", "code": "401"}}, 401, "upstream_authentication_error", None, "false"
    ),
    "beside no choices": Reported(
        {"choices": [], "error": {"message": "It broke.", "code": "x"}}, 502, "upstream_error", None, "false"
    ),
    "of a choice": Reported(
        {
            "choices": [
                {
                    "message": {"content": "Hel"},
                    "finish_reason": "error",
                    "error": {"code": 503, "message": "It broke."},
                }
            ],
            "usage": usage_of(11, 3),
        },
        503,
        "upstream_error",
        None,
        None,
    ),
}


@pytest.fixture(scope="module")
def reported(
    scripted_gateway: Gateway, shared_upstream: ScriptedUpstream, session_database_url: str
) -> dict[tuple[str, bool], Observed[Reported]]:
    """The result of each reported error, by its name and whether a stream was requested."""
    return {
        (name, stream): observed
        for stream in (False, True)
        for name, observed in meet_all(
            scripted_gateway, shared_upstream, session_database_url, REPORTED, stream=stream
        ).items()
    }


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", REPORTED)
def test_an_error_with_status_200_is_an_error_of_its_own_class(
    reported: dict[tuple[str, bool], Observed[Reported]], name: str, stream: bool
) -> None:
    fault, seen, row = reported[name, stream]
    assert (seen.status, seen.error["type"], seen.error["code"]) == (fault.status, fault.kind, fault.code)
    assert seen.headers.get("x-should-retry") == fault.should_retry
    said = ["Slow down", "Too long", "No such thing", "Busy", "It broke"]
    assert any(words in seen.error["message"] for words in said) or fault.status == 401
    assert (row["status"], row["outcome"], row["error_code"]) == (fault.status, "upstream_error", fault.code)
    assert (row["upstream_status"], row["attempts"]) == (200, [])
    assert row["completion_tokens"] == (3 if name == "of a choice" else None)


FLAT_ERRORS: list[tuple[Any, int]] = [
    ({"message": "boom", "code": 500}, 500),
    ({"status": "error", "message": "boom"}, 502),
    ([{"error": {"message": "boom", "code": 503}}], 503),
    ({"error": None, "message": "boom"}, 502),
    ({"errors": [{"message": "boom"}]}, 502),
    ({"code": 429, "msg": "boom"}, 429),
    ({"error_msg": "boom"}, 502),
    ({"error": ["boom"]}, 502),
    ({"error": {"code": 503.0, "message": "boom"}}, 503),
    ({"outcome": "boom"}, 502),
    ({"choices": [{"message": {"content": "x"}, "finish_reason": "error", "error": {"message": "boom"}}]}, 502),
]


@pytest.mark.parametrize(("document", "status"), FLAT_ERRORS)
@pytest.mark.parametrize("stream", [False, True])
def test_the_words_of_an_error_in_any_form_reach_the_client(
    scripted_gateway: Gateway, upstream: ScriptedUpstream, document: Any, status: int, stream: bool
) -> None:
    seen = ask(scripted_gateway, upstream, json_answer(document), stream=stream)
    assert seen.status == status and "boom" in seen.error["message"]


def test_a_failed_generation_without_a_reason_says_so(scripted_gateway: Gateway, upstream: ScriptedUpstream) -> None:
    choice = {"message": {"content": "Hel"}, "finish_reason": "error"}
    seen = ask(scripted_gateway, upstream, json_answer({"choices": [choice]}))
    assert 'the generation failed with finish_reason "error"' in seen.error["message"]


def test_generated_text_in_an_unknown_form_is_not_quoted(scripted_gateway: Gateway, upstream: ScriptedUpstream) -> None:
    seen = ask(scripted_gateway, upstream, json_answer({"choices": [{"message": "my secret"}]}))
    assert seen.status == 502 and "secret" not in seen.error["message"]


LATE: dict[str, bytes] = {
    "compact": json.dumps(COMPLETION).encode(),
    "with blank lines": json.dumps(COMPLETION, indent=1).encode().replace(b"\n", b"\n\n"),
    "after blanks": b" " * 100 + b"\n\n" + json.dumps(COMPLETION).encode(),
}


@pytest.mark.parametrize("kind", ["text/event-stream", "text/plain", None])
@pytest.mark.parametrize("name", LATE)
@pytest.mark.parametrize("stream", [False, True])
def test_a_whole_answer_whose_first_byte_comes_late_is_given(
    scripted_gateway: Gateway,
    upstream: ScriptedUpstream,
    session_database_url: str,
    kind: str | None,
    name: str,
    stream: bool,
) -> None:
    headers = {"content-length": str(len(LATE[name]))} | ({} if kind is None else {"content-type": kind})
    script = [send(head(200, headers)), pause(1.3), send(LATE[name][:150]), pause(0.1), send(LATE[name][150:])]
    seen = ask(scripted_gateway, upstream, script, stream=stream)
    assert seen.status == 200 and b"Hello" in seen.body and not seen.cut
    assert not stream or seen.events[-1] == b"data: [DONE]"
    row = wait_for_row(session_database_url, seen.request_id)
    assert (row["outcome"], row["usage_source"], row["completion_tokens"]) == ("ok", "provider", 3)


def test_blank_lines_within_an_answer_under_the_name_of_events_are_read(
    scripted_gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    for stream in (False, True):
        script = json_answer(LATE["with blank lines"], headers={"content-type": "text/event-stream"})
        seen = ask(scripted_gateway, upstream, script, stream=stream)
        assert seen.status == 200 and b"Hello" in seen.body


def test_events_after_many_blanks_are_the_whole_answer(scripted_gateway: Gateway, upstream: ScriptedUpstream) -> None:
    events: list[Event] = [b"\n" * 200, *whole_stream("Hello")]
    for kind in ("text/event-stream", "application/json"):
        seen = ask(scripted_gateway, upstream, sse_stream(events, headers={"content-type": kind}))
        assert seen.status == 200 and seen.json["choices"][0]["message"]["content"] == "Hello"


def test_what_a_provider_says_is_shown_without_keys(scripted_gateway: Gateway, upstream: ScriptedUpstream) -> None:
    document = {"error": {"message": "The key fw_REPLACE_ME1 is blocked \ud83d.", "code": 400}}
    seen = ask(scripted_gateway, upstream, json_answer(document))
    assert "blocked" in seen.error["message"] and "REPLACE" not in seen.body.decode()


@pytest.mark.parametrize("nothing", [None, False, {}, "", [], 0, {"message": None, "code": None}])
def test_an_error_without_content_is_none(scripted_gateway: Gateway, upstream: ScriptedUpstream, nothing: Any) -> None:
    document = COMPLETION | {"error": nothing, "detail": nothing}
    assert ask(scripted_gateway, upstream, json_answer(document)).json["choices"][0]["message"]["content"] == "Hello"


PAID_FOR: dict[str, bytes] = {
    "no JSON": b"<html>",
    "half of it": json.dumps(COMPLETION).encode()[:-5],
    "another document": b'{"choices": [7]}',
    "a list": b"[1]",
}


@pytest.mark.parametrize("name", PAID_FOR)
def test_what_cannot_be_read_is_not_requested_and_paid_again(
    scripted_gateway: Gateway, upstream: ScriptedUpstream, name: str
) -> None:
    upstream.on_model("unreadable", json_answer(PAID_FOR[name]))
    client = openai.OpenAI(base_url=scripted_gateway.url + "/v1", api_key=scripted_gateway.key, max_retries=2)
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(model=PREFIX + "unreadable", messages=[{"role": "user", "content": "Hello!"}])
    assert caught.value.status_code == 502 and "charged" in caught.value.message
    assert len([request for request in upstream.requests if request.method == "POST"]) == 1


class OddAnswer(NamedTuple):
    """A message that strict parsers refuse, as the provider sends it, and its content as the client gets it."""

    message: bytes
    content: str

    @property
    def script(self) -> Script:
        choice = b'{"message": {' + self.message + b'}, "finish_reason": "stop", "logprobs": {"p": NaN}}'
        usage = b'{"prompt_tokens": 11, "completion_tokens": 3}'
        return json_answer(
            b'\xef\xbb\xbf{"created": 1e400, "model": "\\ud83d", "choices": [' + choice + b'], "usage": ' + usage + b"}"
        )


ODD = {
    "half an emoji": OddAnswer(b'"content": "\\ud83d"', "\ud83d"),
    "half an emoji in CESU-8": OddAnswer(b'"content": "\xed\xa0\xbd"', "\ud83d"),
    "no UTF-8": OddAnswer(b'"content": "a\xff"', "a\ufffd"),
    "a line end": OddAnswer(b'"content": "a\nb"', "a\nb"),
    "NaN": OddAnswer(b'"content": "x", "logprobs": NaN, "y": [-Infinity, 1e400]', "x"),
    "a long number": OddAnswer(b'"content": "x", "seed": ' + b"9" * 5_000, "x"),
}


@pytest.fixture(scope="module")
def odd(
    scripted_gateway: Gateway, shared_upstream: ScriptedUpstream, session_database_url: str
) -> dict[str, Observed[OddAnswer]]:
    """The result of each odd answer, by its name."""
    return meet_all(scripted_gateway, shared_upstream, session_database_url, ODD, stream=False)


@pytest.mark.parametrize("name", ODD)
def test_an_answer_that_is_odd_json_is_given_in_strict_json(odd: dict[str, Observed[OddAnswer]], name: str) -> None:
    answer, seen, row = odd[name]
    completion = json.loads(seen.body.decode("utf-8"), parse_constant=pytest.fail)
    assert seen.status == 200 and completion["choices"][0]["message"]["content"] == answer.content
    assert completion["created"] is None and completion["choices"][0]["logprobs"] == {"p": None}
    assert (row["outcome"], row["completion_tokens"]) == ("ok", 3)


def test_a_message_that_is_null_is_an_empty_one(scripted_gateway: Gateway, upstream: ScriptedUpstream) -> None:
    seen = ask(scripted_gateway, upstream, json_answer({"choices": [{"message": None, "finish_reason": "length"}]}))
    assert seen.json["choices"][0]["message"] == {"role": "assistant", "content": None}


@pytest.mark.parametrize(
    ("kind", "wants_usage"), [("application/json", True), ("text/event-stream", False), ("text/plain", False)]
)
def test_a_whole_answer_becomes_the_stream_that_was_requested(
    scripted_gateway: Gateway, upstream: ScriptedUpstream, session_database_url: str, kind: str, wants_usage: bool
) -> None:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    choices = [
        COMPLETION["choices"][0],
        {"index": 1, "message": {"content": None, "tool_calls": [call, {**call, "id": "b"}]}, "finish_reason": "stop"},
    ]
    script = json_answer(COMPLETION | {"choices": choices}, headers={"content-type": kind})
    upstream.on_model("odd", script)
    client = openai.OpenAI(base_url=scripted_gateway.url + "/v1", api_key=scripted_gateway.key)
    raw = client.chat.completions.with_raw_response.create(
        model=PREFIX + "odd",
        messages=[{"role": "user", "content": "Hello!"}],
        stream=True,
        stream_options={"include_usage": wants_usage},
    )
    chunks = list(raw.parse())
    pieces = [choice for each in chunks for choice in each.choices]
    assert [piece.index for piece in pieces] == [0, 0, 1, 1] and pieces[0].delta.content == "Hello"
    assert [piece.finish_reason for piece in pieces] == [None, "stop", None, "stop"]
    assert [(call.index, call.id) for call in pieces[2].delta.tool_calls or []] == [(0, "a"), (1, "b")]
    assert {(each.id, each.object, each.created) for each in chunks} == {
        ("c-1", "chat.completion.chunk", 1_795_348_800)
    }
    assert [each.usage.total_tokens for each in chunks if each.usage] == ([14] if wants_usage else [])
    row = wait_for_row(session_database_url, raw.headers["x-request-id"])
    assert (row["stream"], row["outcome"], row["status"], row["usage_source"]) == (True, "ok", 200, "provider")
    assert row["completion_tokens"] == 3 and row["bytes_out"] > 0 and row["finish_reason"] == "stop"


def test_a_stream_of_a_whole_answer_ends_as_that_answer_ends(
    scripted_gateway: Gateway, upstream: ScriptedUpstream, session_database_url: str
) -> None:
    seen = ask(scripted_gateway, upstream, json_answer(COMPLETION), stream=True)
    assert seen.headers["content-type"].startswith("text/event-stream")
    assert seen.events[-1] == b"data: [DONE]" and not seen.cut
    unfinished = COMPLETION | {"choices": [{"message": {"content": "Hel"}}]}
    seen = ask(scripted_gateway, upstream, json_answer(unfinished), stream=True)
    assert b"Hel" in seen.body and b"[DONE]" not in seen.body and seen.cut
    assert seen.error["code"] == "upstream_cut"
    row = wait_for_row(session_database_url, seen.request_id)
    assert (row["status"], row["outcome"], row["completion_tokens"]) == (200, "upstream_cut", 3)


def test_a_whole_answer_without_choices_is_no_stream(scripted_gateway: Gateway, upstream: ScriptedUpstream) -> None:
    seen = ask(scripted_gateway, upstream, json_answer(COMPLETION | {"choices": []}), stream=True)
    assert (seen.status, seen.error["code"]) == (502, "upstream_cut")


def test_a_line_of_json_in_a_stream_that_stays_open_is_read_at_once(
    scripted_gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    for document, status in (({"detail": "It broke."}, 502), (COMPLETION, 200)):
        script = sse_stream([json.dumps(document).encode() + b"\n\n"], ending="hang")
        assert ask(scripted_gateway, upstream, script, stream=True).status == status


def test_a_long_answer_that_comes_whole_is_given_whole(scripted_gateway: Gateway, upstream: ScriptedUpstream) -> None:
    seen = ask(scripted_gateway, upstream, json_answer(COMPLETION), max_tokens=20_480)
    assert upstream.calls[-1].json["stream"] is True
    assert seen.status == 200 and seen.json["choices"][0]["message"]["content"] == "Hello"


@pytest.mark.parametrize("kind", ["text/event-stream", "application/json", "text/plain"])
def test_events_become_the_whole_answer_that_was_requested(
    scripted_gateway: Gateway, upstream: ScriptedUpstream, session_database_url: str, kind: str
) -> None:
    events: list[Event] = [b": hello\n\n", *whole_stream("Hel", "lo")]
    seen = ask(scripted_gateway, upstream, sse_stream(events, headers={"content-type": kind}))
    assert (seen.status, seen.headers["content-type"]) == (200, "application/json")
    assert seen.json["object"] == "chat.completion" and seen.json["usage"]["total_tokens"] == 14
    assert seen.json["choices"][0]["message"]["content"] == "Hello"
    row = wait_for_row(session_database_url, seen.request_id)
    assert (row["stream"], row["outcome"], row["completion_tokens"]) == (False, "ok", 3)


def test_events_that_end_too_early_are_no_whole_answer(scripted_gateway: Gateway, upstream: ScriptedUpstream) -> None:
    for kind in ("text/event-stream", "application/json"):
        seen = ask(scripted_gateway, upstream, sse_stream([chunk("Hel")], headers={"content-type": kind}))
        assert (seen.status, seen.error["code"]) == (502, "upstream_cut")


def test_a_stream_under_the_name_of_json_is_a_stream(scripted_gateway: Gateway, upstream: ScriptedUpstream) -> None:
    seen = ask(
        scripted_gateway,
        upstream,
        sse_stream(whole_stream("Hello"), headers={"content-type": "application/json"}),
        stream=True,
    )
    assert seen.events[-1] == b"data: [DONE]" and b"Hello" in seen.events[0]


def test_blank_lines_before_an_answer_are_no_part_of_it(scripted_gateway: Gateway, upstream: ScriptedUpstream) -> None:
    body = b"\n\n\n" + json.dumps(COMPLETION).encode()
    start = head(200, {"content-type": "application/json", "content-length": str(len(body))})
    for stream in (False, True):
        seen = ask(scripted_gateway, upstream, [send(start + body[:2]), send(body[2:])], stream=stream)
        assert seen.status == 200 and b"Hello" in seen.body


def delta_stream(*choices: Any, **more: Any) -> Script:
    events: list[Event] = [{"id": "c", "choices": [choice], **more} for choice in choices]
    return sse_stream([*events, chunk(finish="tool_calls"), DONE])


def test_tool_calls_of_any_form_are_collected(
    scripted_gateway: Gateway, upstream: ScriptedUpstream, session_database_url: str
) -> None:
    pieces = [
        {"index": 0, "id": "a", "function": {"name": "get_", "arguments": ""}},
        {"index": 0, "function": {"name": "time", "arguments": "{}"}},
        None,
        {"index": "0", "id": "b", "function": {"name": "f", "arguments": "1"}},
    ]
    script = delta_stream(*({"index": 0, "delta": {"tool_calls": [piece]}} for piece in pieces))
    seen = ask(scripted_gateway, upstream, script, max_tokens=20_480)
    calls = seen.json["choices"][0]["message"]["tool_calls"]
    found = [(call["id"], call["function"]["name"], call["function"]["arguments"]) for call in calls]
    assert found == [("a", "get_time", "{}"), ("b", "f", "1")]
    assert wait_for_row(session_database_url, seen.request_id)["outcome"] == "ok"


def test_the_row_of_an_answer_that_is_no_answer_is_not_ok(
    scripted_gateway: Gateway, upstream: ScriptedUpstream, session_database_url: str
) -> None:
    deep = b'{"choices": [{"message": {"x": ' + b"[" * 5_000 + b"]" * 5_000 + b"}}]}"
    seen = ask(scripted_gateway, upstream, json_answer(deep))
    row = wait_for_row(session_database_url, seen.request_id)
    assert (seen.status, row["status"], row["outcome"]) == (502, 502, "upstream_error")


def test_half_an_emoji_in_a_request_reaches_the_provider_as_it_was_written(
    scripted_gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    upstream.on_model("odd", chat_answer("hi"))
    messages = [{"role": "user", "content": "cut \ud83d"}]
    seen = post(scripted_gateway, json.dumps({"model": PREFIX + "odd", "messages": messages}).encode())
    assert seen.status == 200
    assert b'"cut \\ud83d"' in upstream.wait_for(lambda request: request.method == "POST").body


def test_half_an_emoji_as_a_name_is_refused_with_the_true_reason(
    scripted_gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    right = {"model": PREFIX + "odd", "messages": [{}]}
    wrong: list[dict[str, Any]] = [{"model": "\ud83d"}, {"stream": "\ud83d"}, {"provider": "\ud83d"}, {"\ud83d": 1}]
    for body in (right | more for more in wrong):
        seen = post(scripted_gateway, json.dumps(body).encode())
        assert (seen.status, seen.error["code"]) == (400, "invalid_parameter")


def test_the_next_request_is_served_as_ever(scripted_gateway: Gateway, upstream: ScriptedUpstream) -> None:
    assert ask(scripted_gateway, upstream, chat_answer("hi")).json["choices"][0]["message"]["content"] == "hi"
