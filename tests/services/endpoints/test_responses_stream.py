"""A chat stream, split and interleaved in any way, becomes a Responses stream that the official SDK reads strictly."""

from __future__ import annotations

import functools
import json
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import (
    BadRequest,
    ConfigurationMissing,
    GatewayError,
    UpstreamCut,
    UpstreamError,
    UpstreamRefused,
    UpstreamSuspended,
)
from app.services.endpoints.chat_assembly import ChatCollector
from app.services.endpoints.responses_context import ResponseContext
from app.services.endpoints.responses_output import translate_response
from app.services.endpoints.responses_stream import ResponsesWriter
from app.services.endpoints.responses_tools import Tools
from tests.support.sdks import openai
from tests.support.soak import examples

REQUEST_ID = "0199f1a2-b3c4-7d5e-8f60-718293a4b5c6"
MODEL = "accounts/fireworks/models/scripted"
TOOLS = [
    {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}, "strict": False},
    {"type": "custom", "name": "apply_patch", "description": "Edits files."},
    {
        "type": "namespace",
        "name": "agents",
        "description": "Sub-agents.",
        "tools": [{"type": "function", "name": "wait", "parameters": None}, {"type": "custom", "name": "say"}],
    },
]


@functools.cache
def get_event_models() -> dict[str, Any]:
    """Returns event name → the SDK's type, because validating against the union of all types is slow."""
    union = get_args(openai.types.responses.ResponseStreamEvent)[0]
    return {get_args(event.model_fields["type"].annotation)[0]: event for event in get_args(union)}


def make_context(**fields: Any) -> ResponseContext:
    tools = Tools()
    tools.add(TOOLS, "tools")
    return ResponseContext(
        {"model": "scripted", "input": "hello", **fields}, tools, wants_logprobs="logprobs" in fields
    )


def read_events(stream: bytes) -> list[dict[str, Any]]:
    """Returns the events of a stream, each of which has been read strictly by the SDK's types."""
    events = []
    for block in stream.decode().split("\n\n")[:-1]:
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        read = get_event_models()[event["type"]].model_validate_json(data.removeprefix("data: "), strict=True)
        assert read.type == event["type"] and read.sequence_number == len(events)
        events.append(event)
    return events


def write_all(chunks: list[dict[str, Any]], context: ResponseContext) -> list[dict[str, Any]]:
    writer = ResponsesWriter(context, REQUEST_ID)
    return read_events(b"".join([*(writer.write(json.dumps(each).encode()) for each in chunks), writer.end()]))


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish, **more}
    return {"id": "c", "object": "chat.completion.chunk", "created": 1_795_608_000, "model": MODEL, "choices": [choice]}


def usage_chunk(usage: dict[str, Any]) -> dict[str, Any]:
    return {"id": "c", "object": "chat.completion.chunk", "model": MODEL, "choices": [], "usage": usage}


def call_piece(index: int, arguments: str | None = None, name: str | None = None, **more: Any) -> dict[str, Any]:
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    return {"tool_calls": [{"index": index, "function": function, **more}]}


def replay(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the output as a client assembles it, after checking the order of the events."""
    items: list[dict[str, Any]] = []
    is_open = False
    is_cut = events[-1]["response"]["status"] == "incomplete"
    for event in events[2:-1]:
        kind = event["type"].removeprefix("response.")
        index = event.get("output_index")
        assert index == (len(items) if kind == "output_item.added" else len(items) - 1)
        if kind == "output_item.added":
            assert not is_open or (is_cut and "call_id" in items[-1])
            is_open = True
            items.append({**event["item"], "deltas": ""})
        elif kind == "output_item.done":
            item = items[-1]
            assert event["item"]["id"] == item["id"] and is_open
            is_open = False
            whole = event["item"].get("arguments", event["item"].get("input"))
            whole = event["item"]["content"][0]["text"] if whole is None else whole
            assert item["deltas"] == whole
            items[-1] = event["item"]
        else:
            assert event["item_id"] == items[-1]["id"]
            if kind.endswith(".delta"):
                assert event["delta"]
                items[-1]["deltas"] += event["delta"]
            elif kind.endswith(("text.done", "arguments.done", "input.done")):
                assert items[-1]["deltas"] in event.values()
    if is_cut:
        assert all("call_id" in item for item in items if "deltas" in item), "only calls are left without an end"
        return [item for item in items if "deltas" not in item]
    assert not is_open
    return items


def summarize(output: list[dict[str, Any]]) -> tuple[str, str, list[tuple[Any, ...]]]:
    """Returns the reasoning, the text and the calls of an output."""
    texts = {"reasoning": "", "message": ""}
    calls = []
    for item in output:
        if item["type"] in texts:
            texts[item["type"]] += "".join(part["text"] for part in item["content"])
        else:
            said = item.get("arguments", item.get("input"))
            calls.append((item["type"], item.get("namespace"), item["name"], item["call_id"], said))
    return texts["reasoning"], texts["message"], calls


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
OBJECTS = st.dictionaries(TEXTS, TEXTS | st.integers() | st.dictionaries(TEXTS, TEXTS, max_size=2), max_size=3)
CALLS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["weather", "agents__wait", "unknown"]), OBJECTS.map(json.dumps) | st.just("")),
        st.tuples(
            st.sampled_from(["apply_patch", "agents__say"]),
            TEXTS.map(lambda text: json.dumps({"input": text})) | TEXTS.map(lambda text: "*** " + text),
        ),
    ),
    max_size=4,
)


@st.composite
def streams(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Draws the chunks of one completion: pieces of reasoning, text and calls, interleaved, each in its own order."""
    lanes: list[list[dict[str, Any]]] = []
    for name in (
        draw(st.sampled_from([["reasoning_content"], ["reasoning"], ["reasoning", "reasoning_content"]])),
        ["content"],
    ):
        pieces = cut(draw, draw(TEXTS | st.just("")), draw(st.integers(1, 3)))
        lanes.append([dict.fromkeys(name, piece) for piece in pieces])
    for index, (name, arguments) in enumerate(draw(CALLS)):
        begin = call_piece(index, name=name, id=f"functions.{name}:{index}", type="function")
        pieces = cut(draw, arguments, draw(st.integers(1, 4)))
        if draw(st.booleans()):
            first = call_piece(index, pieces.pop(0), name=name, id=f"functions.{name}:{index}", type="function")
            lanes.append([first, *(call_piece(index, piece) for piece in pieces)])
        else:
            lanes.append([begin, *(call_piece(index, piece) for piece in pieces)])
    is_interleaved = draw(st.booleans())
    chunks = [chunk({"role": "assistant", "content": ""})]
    while lanes := [lane for lane in lanes if lane]:
        lane = draw(st.sampled_from(lanes)) if is_interleaved else lanes[0]
        chunks.append(chunk(lane.pop(0)))
    reason = draw(st.sampled_from(["stop", "tool_calls", "length", "content_filter"]))
    usage = draw(
        st.none() | st.fixed_dictionaries({"prompt_tokens": st.integers(0, 9), "completion_tokens": st.just(7)})
    )
    return [*chunks, chunk({}, reason), *([usage_chunk(usage)] if usage else [])]


def cut(draw: st.DrawFn, text: str, count: int) -> list[str]:
    """Cuts a text into pieces, some of which may be empty."""
    places = sorted(draw(st.lists(st.integers(0, len(text)), min_size=count - 1, max_size=count - 1)))
    return [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]


@settings(max_examples=examples(150), deadline=None)
@given(streams())
def test_any_split_gives_the_same_output_as_the_collected_answer(chunks: list[dict[str, Any]]) -> None:
    context = make_context()
    events = write_all(chunks, context)
    last = events[-1]["response"]
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    assert events[-1]["type"] == f"response.{last['status']}"
    assert replay(events) == last["output"]

    collector = ChatCollector()
    for each in chunks:
        collector.add(json.dumps(each).encode())
    whole = translate_response(collector.make_response(), context, REQUEST_ID)
    openai.types.responses.Response.model_validate_json(json.dumps(whole), strict=True)
    assert summarize(last["output"]) == summarize(whole["output"])
    same = ("status", "usage", "incomplete_details", "id", "model", "created_at", "tools")
    assert {name: last[name] for name in same} == {name: whole[name] for name in same}


def test_calls_one_after_another_are_sent_at_once_and_interleaved_ones_wait() -> None:
    writer = ResponsesWriter(make_context(), REQUEST_ID)

    def write(delta: dict[str, Any]) -> list[str]:
        events = writer.write(json.dumps(chunk(delta)).encode()).decode()
        return [line.removeprefix("event: response.") for line in events.splitlines() if line.startswith("event")]

    write({"content": "Both."})
    assert write(call_piece(0, name="weather", id="a")) == []  # The name may continue.
    opened = ["output_text.done", "content_part.done", "output_item.done", "output_item.added"]
    assert write(call_piece(0, '{"city":')) == [*opened, "function_call_arguments.delta"]
    assert write(call_piece(0, '"Oslo"}')) == ["function_call_arguments.delta"]
    ended = ["function_call_arguments.done", "output_item.done", "output_item.added"]
    assert write(call_piece(1, '{"city":', name="weather", id="b")) == [*ended, "function_call_arguments.delta"]
    assert write(call_piece(2, '{"city":"Rome"}', name="weather", id="c")) == []
    assert write(call_piece(1, '"Bern"}')) == ["function_call_arguments.delta"]
    writer.write(json.dumps(chunk({}, "tool_calls")).encode())
    last = [json.loads(line[6:]) for line in writer.end().decode().splitlines() if line.startswith("data")][-1]
    calls = summarize(last["response"]["output"])[2]
    assert [(call[3], call[4]) for call in calls] == [
        ("a", '{"city":"Oslo"}'),
        ("b", '{"city":"Bern"}'),
        ("c", '{"city":"Rome"}'),
    ]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ('{"input": "*** Begin\\n\\u00e9\\ud83d\\ude00\\\\"}', "*** Begin\né😀\\"),
        ('{"input":"two\nlines"}', "two\nlines"),
        ('{"input":"C:\\Users"}', "C:\\Users"),
        ('{ "input" : "" }', ""),
        ('{"other": 1, "input": "late"}', "late"),
        ('{"patch": "x"}', '{"patch": "x"}'),
        ("*** Begin Patch", "*** Begin Patch"),
        ("", ""),
        ('{"input":"half \\ud83d."}', "half \ud83d."),
    ],
)
def test_the_input_of_a_custom_tool_is_the_same_however_it_is_cut(arguments: str, text: str) -> None:
    shown = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    for size in range(1, len(arguments) + 2):
        writer = ResponsesWriter(make_context(), REQUEST_ID)
        pieces = [arguments[start : start + size] for start in range(0, len(arguments), size)]
        deltas = [call_piece(0, name="apply_patch", id="a"), *(call_piece(0, piece) for piece in pieces)]
        stream = b"".join(writer.write(json.dumps(chunk(delta)).encode()) for delta in deltas)
        writer.write(json.dumps(chunk({}, "tool_calls")).encode())
        data = [json.loads(line[6:]) for line in (stream + writer.end()).decode().splitlines() if line[:4] == "data"]
        assert "".join(event["delta"] for event in data if event["type"].endswith(".delta")) == shown
        assert data[-1]["response"]["output"][0]["input"] == shown


@pytest.mark.parametrize("reason", ["length", "content_filter", "tool_calls", "stop"])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("weather", '{"city": "Os'),
        ("weather", '{"city": {"name": "Oslo"}'),
        ("apply_patch", '{"input": "*** Begin Patch\\n*** Delete File: a'),
        ("apply_patch", '{"input": "{\\"a\\"}'),
        ("weather", ""),
        ("apply_patch", "*** Begin Patch"),
    ],
)
def test_a_call_that_was_cut_is_never_ended(name: str, arguments: str, reason: str) -> None:
    """Agents run a call once its item has ended, and a part of a patch looks like a complete patch."""
    is_limit = reason in {"length", "content_filter"}
    if not is_limit and not arguments.startswith("{"):
        return  # Missing arguments, or text in place of JSON, count as complete unless the output was cut.
    chunks = [
        chunk({"content": "Both."}),
        chunk(call_piece(0, '{"city":"Rome"}', name="weather", id="a")),
        chunk(call_piece(1, arguments, name=name, id="b")),
        chunk({}, reason),
    ]
    writer, collector = ResponsesWriter(make_context(), REQUEST_ID), ChatCollector()
    stream = b""
    for each in chunks:
        stream += writer.write(json.dumps(each).encode())
        collector.add(json.dumps(each).encode())
    if is_limit:
        stream += writer.end()
        output = translate_response(collector.make_response(), make_context(), REQUEST_ID)["output"]
        assert [item.get("call_id") for item in output] == [None, "a"]
    else:
        with pytest.raises(UpstreamError, match=f"'{name}' with incomplete arguments"):
            translate_response(collector.make_response(), make_context(), REQUEST_ID)
        with pytest.raises(UpstreamError) as caught:
            writer.end()
        stream += writer.fail(caught.value)
    events = read_events(stream)
    last = events[-1]
    assert last["type"] == ("response.incomplete" if is_limit else "response.failed")
    ended = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert ended == last["response"]["output"]
    assert [(item.get("call_id"), item["status"]) for item in ended] == [(None, "completed"), ("a", "completed")]


def test_log_probabilities_pass_where_they_were_asked_for() -> None:
    token = {"token": "Hi", "logprob": -0.5, "bytes": None, "top_logprobs": [{"token": "Hi", "logprob": -0.5}]}
    chunks = [chunk({"content": "Hi"}, logprobs={"content": [token]}), chunk({}, "stop")]
    shown = {"token": "Hi", "logprob": -0.5, "bytes": [72, 105]}
    expected = [{**shown, "top_logprobs": [shown]}]
    for context, logprobs in (make_context(logprobs=True), expected), (make_context(), []):
        events = write_all(chunks, context)
        by_type = {event["type"]: event for event in events}
        assert by_type["response.output_text.delta"]["logprobs"] == logprobs
        assert by_type["response.output_text.done"]["logprobs"] == logprobs
        assert events[-1]["response"]["output"][0]["content"][0]["logprobs"] == logprobs


def test_odd_deltas_keep_their_text() -> None:
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm. "}]}, {"type": "text", "text": "Yes"}]
    function = {"function_call": {"name": "weather", "arguments": "{}"}}
    chunks = [
        chunk({"content": parts}),
        chunk({"content": " \ud83d"}),
        chunk({"content": "\ude00\udc00!"}),
        chunk(function),
    ]
    events = write_all([*chunks, chunk({}, "tool_calls")], make_context())
    reasoning, text, calls = summarize(events[-1]["response"]["output"])
    assert (reasoning, text) == ("Hm. ", "Yes 😀\ufffd!")
    assert [(call[2], call[4]) for call in calls] == [("weather", "{}")]
    assert calls[0][3].startswith("call_")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UpstreamCut("It broke."), "server_error", "It broke."),
        (GatewayError("It failed."), "server_error", "It failed."),
        (ConfigurationMissing("No key."), "server_error", "No key."),
        (BadRequest("No."), "invalid_prompt", "No."),
        (BadRequest("Too long.", code="context_length_exceeded"), "context_length_exceeded", "Too long."),
        (UpstreamSuspended("No money."), "insufficient_quota", "No money."),
        (
            UpstreamRefused("Wait.", status=429, retry_after_s=2.6),
            "rate_limit_exceeded",
            "Wait. Please try again in 3s.",
        ),
        (UpstreamRefused("Wait.", status=429), "rate_limit_exceeded", "Wait."),
    ],
)
def test_a_failure_ends_no_open_item_and_says_what_agents_read(error: GatewayError, code: str, message: str) -> None:
    writer = ResponsesWriter(make_context(), REQUEST_ID)
    deltas = [{"content": "Look."}, call_piece(0, '{"city":', name="weather", id="a")]
    stream = b"".join(writer.write(json.dumps(chunk(delta)).encode()) for delta in deltas) + writer.fail(error)
    data = [json.loads(line[6:]) for line in stream.decode().splitlines() if line.startswith("data")]
    assert [event["sequence_number"] for event in data] == list(range(len(data)))
    assert [event["item"]["type"] for event in data if event["type"] == "response.output_item.done"] == ["message"]
    last = data[-1]
    assert (last["type"], last["response"]["status"]) == ("response.failed", "failed")
    assert last["response"]["error"] == {"code": code, "message": message}
    assert [item["type"] for item in last["response"]["output"]] == ["message"]
    assert last["response"]["usage"] is None and last["response"]["completed_at"] is None


def test_a_failure_before_the_first_chunk_is_a_stream_too() -> None:
    events = read_events(ResponsesWriter(make_context(), REQUEST_ID).fail(UpstreamCut("It broke.")))
    assert [event["type"] for event in events] == ["response.created", "response.in_progress", "response.failed"]
