"""A request for more tokens than Fireworks allows unstreamed is streamed there and returned as one JSON response."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.answers import DONE, Event, chunk, error_event, json_answer, sse_stream, usage_chunk
from tests.support.chat import PREFIX, Seen, post_chat, wait_for_row
from tests.support.gateway import Gateway
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.scripts import Script, hang


def delta_chunk(delta: dict[str, Any], finish: str | None = None, index: int = 0) -> dict[str, Any]:
    """Returns a chunk with any delta."""
    whole = chunk(finish=finish, index=index)
    whole["choices"][0]["delta"] = delta
    return whole


def ask(gateway: Gateway, upstream: ScriptedUpstream, script: Script, **more: Any) -> Seen:
    upstream.on_model("long", script)
    return post_chat(gateway, PREFIX + "long", **{"max_tokens": 20_480, **more})


@pytest.mark.parametrize(
    ("parameters", "streamed"),
    [
        ({"max_tokens": 4096}, None),
        ({"max_tokens": 4097}, True),
        ({"max_completion_tokens": 20_480}, True),
        ({"max_tokens": 20_480, "stream": False}, True),
    ],
)
def test_only_more_than_4096_tokens_are_streamed_from_the_provider(
    scripted_gateway: Gateway, upstream: ScriptedUpstream, parameters: dict[str, Any], streamed: bool | None
) -> None:
    whole: list[Event] = [chunk("Hello", finish="stop"), usage_chunk(), DONE]
    upstream.on_model("long", sse_stream(whole) if streamed else upstream.default)
    seen = post_chat(scripted_gateway, PREFIX + "long", **parameters)
    sent = upstream.wait_for(lambda request: "long" in str(request.body)).json
    assert sent.get("stream") is streamed
    assert (seen.status, seen.headers["content-type"]) == (200, "application/json")
    assert seen.json["object"] == "chat.completion" and "data:" not in seen.body.decode()


def test_text_thoughts_tools_logprobs_and_all_choices_survive(
    scripted_gateway: Gateway, upstream: ScriptedUpstream, session_database_url: str
) -> None:
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"ci'}}
    more = {"index": 0, "function": {"arguments": 'ty":"Oslo"}'}}
    logged = chunk("He", index=1)
    logged["choices"][0]["logprobs"] = {"content": [{"token": "He", "logprob": -0.5}]}
    events: list[Event] = [
        delta_chunk({"role": "assistant", "reasoning_content": "Let me"}),
        delta_chunk({"reasoning_content": " think."}),
        delta_chunk({"tool_calls": [call]}),
        logged,
        delta_chunk({"tool_calls": [more]}),
        delta_chunk({}, "tool_calls"),
        chunk("llo", index=1, finish="length"),
        usage_chunk(),
        DONE,
    ]
    seen = ask(scripted_gateway, upstream, sse_stream(events, cut_at=50))
    first, second = seen.json["choices"]
    assert first == {
        "index": 0,
        "message": {
            "role": "assistant",
            "content": None,
            "reasoning_content": "Let me think.",
            "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Oslo"}'}}
            ],
        },
        "finish_reason": "tool_calls",
        "logprobs": None,
    }
    assert second["message"]["content"] == "Hello" and second["finish_reason"] == "length"
    assert second["logprobs"] == {"content": [{"token": "He", "logprob": -0.5}]}
    assert seen.json["usage"] == {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14}
    row = wait_for_row(session_database_url, seen.request_id)
    assert (row["stream"], row["outcome"], row["status"], row["completion_tokens"]) == (False, "ok", 200, 3)


FAULTS: dict[str, tuple[Script, int, str, str]] = {
    "a cut": (sse_stream([chunk("one")], ending="fin"), 502, "upstream_cut", "upstream_error"),
    "no [DONE]": (sse_stream([chunk("one", finish="stop")]), 502, "upstream_cut", "upstream_error"),
    "silence": (sse_stream([chunk("one")], ending="hang"), 504, "upstream_timeout", "upstream_timeout"),
    "no answer": ([hang()], 504, "upstream_timeout", "upstream_timeout"),
    "an error event": (sse_stream([chunk("one"), error_event()]), 503, "upstream_error", "upstream_error"),
    "garbage": (sse_stream([b"data: nonsense\n\n"]), 502, "upstream_cut", "upstream_error"),
    "a refusal": (
        json_answer({"error": {"message": "Too long."}}, 400),
        400,
        "upstream_error",
        "invalid_request_error",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_goes_wrong_in_the_stream_is_a_real_http_error(
    hasty_gateway: Gateway, hasty_upstream: ScriptedUpstream, session_database_url: str, fault: str
) -> None:
    script, status, outcome, kind = FAULTS[fault]
    seen = ask(hasty_gateway, hasty_upstream, script)
    assert (seen.status, seen.error["type"], seen.headers["content-type"]) == (status, kind, "application/json")
    row = wait_for_row(session_database_url, seen.request_id)
    assert (row["status"], row["outcome"], row["error_type"]) == (status, outcome, kind)
