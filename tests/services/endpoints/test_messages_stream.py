"""A chat stream in any interleaving becomes a stream that Anthropic's SDK reads as the message of the whole answer."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import GatewayError, Unavailable, UpstreamError
from app.services.endpoints import ENDPOINTS
from app.services.endpoints.chat_assembly import ChatCollector
from app.services.endpoints.messages import MessagesTranslation
from app.services.endpoints.messages_body import MessagesContext
from app.services.endpoints.messages_stream import MessagesWriter
from app.services.streaming import EventReader
from tests.support.anthropic_sdk import check_order, read_message, read_stream
from tests.support.sdks import anthropic

(MESSAGES,) = [endpoint for endpoint in ENDPOINTS if endpoint.path == "/v1/messages"]
REQUEST_ID = "0196a7f2-0000-7000-8000-000000000001"
CONTEXT = MessagesContext("asked", {"short": "a_long_name"}, ("</stop>",), prompt_tokens=7)

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | TEXTS, lambda inner: st.lists(inner, max_size=2)
)
ARGUMENTS = st.dictionaries(TEXTS, VALUES, max_size=3).map(json.dumps) | st.sampled_from(["{}", ""])
CALLS = st.lists(
    st.tuples(st.sampled_from(["functions.get:0", "call_0", "call_abcdefghijkl", ""]), TEXTS, ARGUMENTS), max_size=3
)
USAGES = st.fixed_dictionaries(
    {"prompt_tokens": st.integers(5, 9), "completion_tokens": st.integers(0, 9)},
    optional={"prompt_tokens_details": st.fixed_dictionaries({"cached_tokens": st.integers(0, 5)})},
)


def cut(draw: st.DrawFn, text: str) -> list[str]:
    """Cuts a text into one to four pieces."""
    ends = sorted(draw(st.lists(st.integers(0, len(text)), max_size=3)))
    return [text[start:end] for start, end in zip([0, *ends], [*ends, len(text)], strict=True)]


@st.composite
def streams(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Draws the chunks of an answer: the pieces of its texts and its calls, interleaved, each source in order."""
    sources: list[list[dict[str, Any]]] = []
    if draw(st.booleans()):
        name = draw(st.sampled_from(["reasoning_content", "reasoning"]))
        sources.append([{name: piece} for piece in cut(draw, draw(TEXTS))])
    if draw(st.booleans()):
        sources.append([{"content": piece} for piece in cut(draw, draw(TEXTS))])
    calls = draw(CALLS)
    for index, (call_id, name, arguments) in enumerate(calls):
        first: dict[str, Any] = {"index": index, "type": "function", "function": {"name": name}}
        pieces = cut(draw, arguments)
        if call_id:
            first["id"] = call_id
        if draw(st.booleans()):
            first["function"]["arguments"] = pieces.pop(0)
        rest = [{"index": index, "function": {"arguments": piece}} for piece in pieces]
        sources.append([{"tool_calls": [piece]} for piece in [first, *rest]])
    deltas = []
    while sources := [source for source in sources if source]:
        source = draw(st.sampled_from(sources))
        # Providers send the calls one after the other, or mixed; the first pieces always come in the order of indexes.
        deltas.append(source.pop(0))
    return [{"index": 0, "delta": delta, "finish_reason": None} for delta in order_calls(deltas)]


def order_calls(deltas: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Numbers calls by their first piece, as providers do."""
    numbers: dict[int, int] = {}
    for delta in deltas:
        for piece in delta.get("tool_calls", ()):
            piece["index"] = numbers.setdefault(piece["index"], len(numbers))
    return deltas


def make_chunks(choices: list[dict[str, Any]], reason: str, usage: dict[str, Any] | None) -> list[dict[str, Any]]:
    envelope = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "served"}
    chunks = [{**envelope, "choices": [choice]} for choice in choices]
    chunks.append({**envelope, "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
    return chunks + ([{**envelope, "choices": [], "usage": usage}] if usage is not None else [])


def write(chunks: list[Any], *, done: bool = True, size: int = 1_000_000, context: MessagesContext = CONTEXT) -> bytes:
    """Returns the client's stream for a provider's stream that arrives in pieces of `size` bytes."""
    writer = MessagesTranslation().make_writer(context, REQUEST_ID)
    reader = EventReader(MESSAGES, "Provider", key_setting="KEY", show_usage=False, writer=writer)
    data = b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks)
    data += b"data: [DONE]\n\n" if done else b""
    written = b"".join(reader.read(data[start : start + size], 0.0) for start in range(0, len(data), size))
    return written + reader.read_end(0.0)


def collect(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    collector = ChatCollector()
    for chunk in chunks:
        collector.add(json.dumps(chunk).encode())
    return MessagesTranslation().translate_response(collector.make_response(), CONTEXT, REQUEST_ID)


@given(streams(), st.sampled_from(["stop", "tool_calls", "length", "content_filter"]), st.none() | USAGES, st.data())
def test_the_sdk_reads_of_any_stream_what_the_whole_answer_says(
    choices: list[dict[str, Any]], reason: str, usage: dict[str, Any] | None, data: st.DataObject
) -> None:
    chunks = make_chunks(choices, reason, usage)
    streamed = read_stream(write(chunks, size=data.draw(st.sampled_from([1, 7, 100, 1_000_000]))))
    whole = read_message(collect(chunks))
    for kind in ("thinking", "text"):
        values = [
            "".join(getattr(block, kind) for block in message.content if block.type == kind)
            for message in (streamed, whole)
        ]
        assert values[0] == values[1]
    calls = [
        sorted((block.name, json.dumps(block.input)) for block in message.content if block.type == "tool_use")
        for message in (streamed, whole)
    ]
    assert calls[0] == calls[1]
    ids = [block.id for block in streamed.content if block.type == "tool_use"]
    assert len(set(ids)) == len(ids)
    assert (streamed.id, streamed.model, streamed.stop_reason) == (whole.id, whole.model, whole.stop_reason)
    assert streamed.stop_reason == "tool_use" or not ids or reason in ("length", "content_filter")
    if usage is not None:
        assert streamed.usage.to_dict() == whole.usage.to_dict()
        cached = usage.get("prompt_tokens_details", {}).get("cached_tokens", 0)
        assert streamed.usage.input_tokens == usage["prompt_tokens"] - cached
        assert streamed.usage.cache_read_input_tokens == cached
    else:
        assert streamed.usage.input_tokens == 7


def piece(
    index: int, arguments: str | None = None, name: str | None = None, call_id: str | None = None
) -> dict[str, Any]:
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    return {"tool_calls": [{"index": index, "function": function} | ({"id": call_id} if call_id else {})]}


def write_deltas(*deltas: dict[str, Any], reason: str = "tool_calls", done: bool = True) -> bytes:
    choices = [{"index": 0, "delta": delta} for delta in deltas]
    return write(make_chunks(choices, reason, None) if done else make_chunks(choices, reason, None)[:-1], done=done)


def describe(content: bytes) -> list[str]:
    """Returns the events of a stream in a short form."""
    shown = []
    for event in check_order(content):
        if event.type == "content_block_start":
            block = event.content_block
            shown.append(f"+{block.name if block.type == 'tool_use' else block.type}")
        elif event.type == "content_block_delta":
            delta = event.delta.to_dict()
            shown.append(str(delta.get("text") or delta.get("thinking") or delta.get("partial_json")))
        elif event.type == "content_block_stop":
            shown.append("-")
        elif event.type == "message_delta":
            shown.append(str(event.delta.stop_reason))
    return shown


def test_texts_pass_at_once_and_calls_come_whole_at_the_end() -> None:
    deltas = [
        {"content": "Hi"},
        piece(0, '{"x"', "a"),
        piece(1, '{"y"', "b"),
        {"content": " there"},
        piece(1, ": 2}"),
        piece(0, ": 1}"),
        piece(2, "{}", "c"),
    ]
    content = write_deltas(*deltas)
    assert describe(content) == [
        *["+text", "Hi", " there", "-"],
        *["+a", '{"x":1}', "-"],
        *["+b", '{"y":2}', "-"],
        *["+c", "{}", "-"],
        "tool_use",
    ]
    assert content.count(b"event: ping\n") == 5  # One for each piece, so that the client is not left in silence.


def test_a_name_in_pieces_and_one_that_comes_late_and_a_call_without_arguments() -> None:
    deltas = [
        piece(0, "", "get_"),
        piece(0, None, "time"),
        piece(1, "{}"),
        piece(1, None, "late"),
        piece(2, None, "none"),
    ]
    assert describe(write_deltas(*deltas, reason="stop")) == [
        *["+get_time", "{}", "-"],
        *["+late", "{}", "-"],
        *["+none", "{}", "-"],
        "tool_use",
    ]


def test_a_long_name_is_the_tools_own_again() -> None:
    assert describe(write_deltas(piece(0, "{}", "short")))[0] == "+a_long_name"


@pytest.mark.parametrize("reason", ["tool_calls", "stop"])
def test_without_a_call_the_reason_is_not_tool_use(reason: str) -> None:
    assert describe(write_deltas({"content": "Hi"}, reason=reason))[-1] == "end_turn"
    assert describe(write_deltas({"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}))[-1] == "end_turn"


@pytest.mark.parametrize("arguments", [None, "", '{"x": "', '{"x": 1'])
@pytest.mark.parametrize(("reason", "shown"), [("length", "max_tokens"), ("content_filter", "refusal")])
def test_a_call_that_was_cut_is_in_no_answer(arguments: str | None, reason: str, shown: str) -> None:
    deltas = [{"content": "Hi"}, piece(0, "{}", "whole"), piece(1, arguments, "cut")]
    content = write_deltas(*deltas, reason=reason)
    assert describe(content) == ["+text", "Hi", "-", "+whole", "{}", "-", shown]
    message = read_stream(content)
    assert [block.type for block in message.content] == ["text", "tool_use"] and message.stop_reason == shown
    whole = collect(make_chunks([{"index": 0, "delta": delta} for delta in deltas], reason, None))
    assert ([block["type"] for block in whole["content"]], whole["stop_reason"]) == (["text", "tool_use"], shown)


def test_a_call_that_ends_at_the_limit_is_whole() -> None:
    assert describe(write_deltas(piece(0, "{}", "a"), reason="length")) == ["+a", "{}", "-", "tool_use"]


@pytest.mark.parametrize("arguments", ['{"x": ', "[1]", "{}more"])
def test_arguments_that_nobody_can_read_are_an_error_and_no_call(arguments: str) -> None:
    deltas = [{"content": "Hi"}, piece(0, "{}", "a"), piece(1, arguments, "b")]
    with pytest.raises(UpstreamError, match="'b' with arguments that are not a JSON object"):
        collect(make_chunks([{"index": 0, "delta": delta} for delta in deltas], "tool_calls", None))
    content = write_deltas(*deltas)
    assert describe(content) == ["+text", "Hi"]
    with pytest.raises(anthropic.APIError, match="'b' with arguments that are not a JSON object"):
        read_stream(content)


def test_a_stream_with_unreadable_arguments_has_failed() -> None:
    writer = MessagesTranslation().make_writer(CONTEXT, REQUEST_ID)
    reader = EventReader(MESSAGES, "Provider", key_setting="KEY", show_usage=False, writer=writer)
    chunks = make_chunks([{"index": 0, "delta": piece(0, '{"x": ', "a")}], "tool_calls", None)
    reader.read(b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks), 0.0)
    reader.read(b"data: [DONE]\n\n", 0.0)
    assert isinstance(reader.error, UpstreamError) and reader.is_over and not reader.summary.is_done


def test_arguments_that_are_json_within_json_are_read() -> None:
    chunks = make_chunks([{"index": 0, "delta": piece(0, json.dumps('{"x": 1}'), "a")}], "tool_calls", None)
    for message in (read_message(collect(chunks)), read_stream(write(chunks))):
        assert [block.input for block in message.content if block.type == "tool_use"] == [{"x": 1}]


def test_a_failure_shows_no_call_and_gives_no_reason() -> None:
    content = write_deltas({"reasoning": "Hm"}, piece(0, '{"x": ', "a"), done=False)
    assert describe(content) == ["+thinking", "Hm"]
    with pytest.raises(anthropic.APIError) as raised:
        read_stream(content)
    body = raised.value.body
    assert isinstance(body, dict) and body["error"]["type"] == "api_error" and body["request_id"] == REQUEST_ID
    assert body["error"]["message"].startswith("Provider ended its response before it was complete.")


def test_thinking_is_hidden_if_it_is_disabled() -> None:
    context = MessagesContext("m", shows_thinking=False)
    chunks = make_chunks([{"index": 0, "delta": {"reasoning_content": "Hm", "content": "Hi"}}], "stop", None)
    assert describe(write(chunks, context=context)) == ["+text", "Hi", "-", "end_turn"]


@pytest.mark.parametrize(
    ("choice", "stop"),
    [
        ({"stop_reason": "</stop>"}, ("stop_sequence", "</stop>")),
        ({"matched_stop": "</stop>"}, ("stop_sequence", "</stop>")),
        ({"matched_stop": 128_001}, ("end_turn", None)),
        ({"stop_reason": "other"}, ("end_turn", None)),
    ],
)
def test_the_stop_sequence_is_named_where_the_provider_says_so(choice: dict[str, Any], stop: tuple[str, str]) -> None:
    chunks = make_chunks([{"index": 0, "delta": {"content": "Hi"}}], "stop", None)
    chunks[-1]["choices"][0] |= choice
    for message in (read_stream(write(chunks)), read_message(collect(chunks))):
        assert (message.stop_reason, message.stop_sequence) == stop


def test_odd_chunks_are_translated_after_their_repair() -> None:
    deltas: list[dict[str, Any]] = [
        {"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"content": "\ud83d"},
        {"content": "\ude00"},
        {"content": 5},
        {"function_call": {"name": "old", "arguments": {"x": 1}}},
    ]
    # pydantic refuses half an emoji, but the SDK itself reads it.
    message = read_stream(write_deltas(*deltas, reason="function_call"), is_strict=False)
    text, call = message.content
    assert text.type == "text" and text.text.encode("utf-16", "surrogatepass").decode("utf-16") == "ab\U0001f6005"
    assert call.type == "tool_use" and (call.name, call.input) == ("old", {"x": 1})
    assert message.stop_reason == "tool_use"


@pytest.mark.parametrize(
    ("error", "kind"),
    [(UpstreamError("x"), "api_error"), (Unavailable("x"), "overloaded_error"), (GatewayError("x"), "api_error")],
)
def test_an_error_event_has_the_type_by_which_agents_decide(error: GatewayError, kind: str) -> None:
    event = MessagesWriter(CONTEXT, REQUEST_ID).fail(error)
    assert event.startswith(b"event: error\ndata: ") and event.endswith(b"\n\n")
    assert json.loads(event.partition(b"data: ")[2])["error"] == {"type": kind, "message": "x"}
