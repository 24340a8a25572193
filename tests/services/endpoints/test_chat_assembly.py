"""A completion that is split into chunks in any way and collected again is unchanged."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import UpstreamCut
from app.lenient_json import encode
from app.services.endpoints.chat_assembly import ChatCollector, normalise_completion
from tests.support.soak import examples

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
LOGPROBS = st.none() | st.lists(
    st.fixed_dictionaries({"token": TEXTS, "logprob": st.floats(-9, 0), "top_logprobs": st.just([])}),
    min_size=1,
    max_size=4,
).map(lambda rows: {"content": rows})
CALLS = st.lists(
    st.fixed_dictionaries(
        {
            "id": st.uuids().map(str),
            "type": st.just("function"),
            "function": st.fixed_dictionaries({"name": TEXTS, "arguments": st.text(max_size=12)}),
        }
    ),
    min_size=1,
    max_size=3,
)
MESSAGES = st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": st.none() | TEXTS},
    optional={"reasoning_content": TEXTS, "tool_calls": CALLS, "refusal": TEXTS},
)
COMPLETIONS = st.builds(
    lambda choices, usage: {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_795_348_800,
        "model": "accounts/fireworks/models/m",
        "choices": [{"index": index, **choice} for index, choice in enumerate(choices)],
        "usage": usage,
    },
    st.lists(
        st.fixed_dictionaries(
            {"message": MESSAGES, "finish_reason": st.sampled_from(["stop", "length"]), "logprobs": LOGPROBS},
            optional={"token_ids": st.lists(st.integers(0, 99), min_size=1, max_size=5)},
        ),
        min_size=1,
        max_size=3,
    ),
    st.none() | st.fixed_dictionaries({"prompt_tokens": st.integers(0, 9), "completion_tokens": st.integers(0, 9)}),
)


def parts(draw: st.DrawFn, whole: Any) -> list[Any]:
    """Cuts a text or a list into one to three pieces that are not empty."""
    cuts = sorted({draw(st.integers(0, len(whole))) for _ in range(2)} - {0, len(whole)})
    return [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]


def call_deltas(draw: st.DrawFn, index: int, call: dict[str, Any]) -> list[dict[str, Any]]:
    first = {"index": index, "id": call["id"], "type": "function", "function": {"name": call["function"]["name"]}}
    pieces = [{"index": index, "function": {"arguments": part}} for part in parts(draw, call["function"]["arguments"])]
    if draw(st.booleans()):  # Some providers repeat the id, or send null, in each piece.
        again = draw(st.sampled_from([None, call["id"]]))
        pieces = [{**piece, "id": again} for piece in pieces]
    return [{"tool_calls": [piece]} for piece in (first, *pieces)]


def choice_pieces(draw: st.DrawFn, choice: dict[str, Any]) -> list[dict[str, Any]]:
    message = choice["message"]
    role = {"role": "assistant", "content": None} if draw(st.booleans()) else {"role": "assistant"}
    deltas: list[dict[str, Any]] = [role]
    for name in ("reasoning_content", "content", "refusal"):
        deltas += [{name: part} for part in parts(draw, message.get(name) or "") if part]
    for index, call in enumerate(message.get("tool_calls", [])):
        deltas += call_deltas(draw, index, call)
    pieces: list[dict[str, Any]] = [{"delta": delta, "finish_reason": None} for delta in deltas]
    if choice["logprobs"] is not None:
        rows = parts(draw, choice["logprobs"]["content"])
        pieces += [{"delta": {}, "logprobs": {"content": row}} for row in rows]
    pieces += [{"delta": {}, "token_ids": ids} for ids in parts(draw, choice.get("token_ids", [])) if ids]
    pieces.append({"delta": {}, "finish_reason": choice["finish_reason"]})
    return [{"index": choice["index"], **piece} for piece in pieces]


@st.composite
def split_completions(draw: st.DrawFn) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Draws a completion and the chunks of a stream of it, with the choices' pieces in any order."""
    completion = draw(COMPLETIONS)
    waiting = [choice_pieces(draw, choice) for choice in completion["choices"]]
    envelope = {name: completion[name] for name in ("id", "created", "model")} | {"object": "chat.completion.chunk"}
    chunks = []
    while waiting := [pieces for pieces in waiting if pieces]:
        turn = draw(st.lists(st.integers(0, len(waiting) - 1), min_size=1, max_size=len(waiting), unique=True))
        chunks.append({**envelope, "choices": [waiting[which].pop(0) for which in turn], "usage": None})
    chunks.append({**envelope, "choices": [], "usage": completion["usage"]})
    return completion, chunks


@settings(max_examples=examples(60), deadline=None)
@given(split_completions())
def test_a_completion_split_in_any_way_is_collected_whole(drawn: tuple[dict[str, Any], list[dict[str, Any]]]) -> None:
    completion, chunks = drawn
    collector = ChatCollector()
    for chunk in json.loads(json.dumps(chunks)):
        collector.add_chunk(chunk)
    assert collector.make_response() == completion


@settings(max_examples=examples(40), deadline=None)
@given(COMPLETIONS)
def test_a_whole_completion_is_not_changed(completion: dict[str, Any]) -> None:
    before = copy.deepcopy(completion)
    assert normalise_completion(completion) is completion
    assert completion == before


@pytest.mark.parametrize(
    "choice",
    [
        {"finish_reason": "length"},
        {"message": None, "finish_reason": "length"},
        {"message": {"reasoning_content": "hm"}, "finish_reason": "length"},
        {"message": {"role": "assistant", "tool_calls": []}, "finish_reason": "length"},
    ],
)
def test_missing_fields_become_null(choice: dict[str, Any]) -> None:
    completion = normalise_completion({"id": "1", "choices": [choice]})
    assert completion["object"] == "chat.completion" and completion["usage"] is None
    filled = completion["choices"][0]
    assert filled["index"] == 0 and filled["logprobs"] is None and filled["finish_reason"] == "length"
    assert filled["message"]["role"] == "assistant" and filled["message"]["content"] is None


def test_choices_without_an_index_are_numbered() -> None:
    completion = normalise_completion({"choices": [{"message": {"content": "a"}}, {"message": {"content": "b"}}]})
    assert [choice["index"] for choice in completion["choices"]] == [0, 1]


def collect(*deltas: dict[str, Any]) -> dict[str, Any]:
    collector = ChatCollector()
    for delta in deltas:
        collector.add_chunk({"id": "1", "choices": [{"delta": delta}]})
    message: dict[str, Any] = collector.make_response()["choices"][0]["message"]
    return message


def test_calls_without_an_index_are_told_apart_by_their_ids() -> None:
    message = collect(
        {"tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "{"}}]},
        {"tool_calls": [{"function": {"arguments": "}"}}]},
        {"tool_calls": [{"id": "b", "function": {"name": "g", "arguments": "1"}}]},
        {"tool_calls": [{"id": "b", "function": {"arguments": "2"}}]},
    )
    assert message["tool_calls"] == [
        {"id": "a", "function": {"name": "f", "arguments": "{}"}},
        {"id": "b", "function": {"name": "g", "arguments": "12"}},
    ]


def test_whole_calls_in_one_piece_are_all_kept() -> None:
    calls = [{"id": name, "type": "function", "function": {"name": name, "arguments": "{}"}} for name in ("f", "g")]
    assert collect({"tool_calls": calls})["tool_calls"] == calls
    indexed = [{"index": index, **call} for index, call in enumerate(calls)]
    assert collect({"tool_calls": indexed})["tool_calls"] == calls


def test_pieces_of_the_old_function_call_are_joined() -> None:
    message = collect({"function_call": {"name": "f", "arguments": ""}}, {"function_call": {"arguments": "{}"}})
    assert message["function_call"] == {"name": "f", "arguments": "{}"}


def test_logprobs_of_the_older_form_are_joined() -> None:
    collector = ChatCollector()
    for token in ("a", "b"):
        logprobs = {"tokens": [token], "token_logprobs": [-1.0], "text_offset": [0]}
        collector.add_chunk({"choices": [{"index": 0, "delta": {"content": token}, "logprobs": logprobs}]})
    expected = {"tokens": ["a", "b"], "token_logprobs": [-1.0, -1.0], "text_offset": [0, 0]}
    assert collector.make_response()["choices"][0]["logprobs"] == expected


def test_the_last_running_total_is_kept() -> None:
    collector = ChatCollector()
    for count in (1, 2, 3):
        collector.add_chunk({"choices": [{"delta": {"content": "x"}}], "usage": {"completion_tokens": count}})
    collector.add_chunk({"choices": [], "usage": None, "perf_metrics": {"prompt-tokens": 5}})
    completion = collector.make_response()
    assert completion["usage"] == {"completion_tokens": 3} and completion["perf_metrics"] == {"prompt-tokens": 5}


def test_make_response_can_be_called_twice() -> None:
    collector = ChatCollector()
    collector.add_chunk({"id": "1", "choices": [{"delta": {"tool_calls": [{"index": 0, "id": "a"}]}}]})
    assert copy.deepcopy(collector.make_response()) == collector.make_response()


def test_without_chunks_the_completion_has_no_choices() -> None:
    assert ChatCollector().make_response() == {"object": "chat.completion", "choices": [], "usage": None}


def call(index: Any, call_id: Any, name: str | None = None, arguments: str | None = None) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"tool_calls": [{"index": index, "id": call_id, "type": "function", "function": function}]}


def calls_of(*deltas: dict[str, Any]) -> list[tuple[str, str, str | None]]:
    calls = collect(*deltas)["tool_calls"]
    return [(one["id"], one["function"]["name"], one["function"].get("arguments")) for one in calls]


def test_parallel_calls_that_are_all_numbered_0_stay_apart() -> None:
    expected = [("a", "f", '{"x":1}'), ("b", "g", "{}")]
    assert calls_of(call(0, "a", "f", '{"x":'), call(0, None, None, "1}"), call(0, "b", "g", "{}")) == expected
    whole_calls = [*call(0, "a", "f", '{"x":1}')["tool_calls"], *call(0, "b", "g", "{}")["tool_calls"]]
    assert calls_of({"tool_calls": whole_calls}) == expected
    interleaved = [
        call(0, "a", "f", '{"x":'),
        call(0, "b", "g", "{"),
        call(0, "a", None, "1}"),
        call(0, "b", None, "}"),
    ]
    assert calls_of(*interleaved) == expected


def test_a_new_id_without_a_name_continues_the_call() -> None:
    assert calls_of(call(0, "a", "f", "{"), call(0, "b", None, "1"), call(0, "c", "", "}")) == [("a", "f", "{1}")]


def test_parallel_calls_that_are_all_numbered_0_may_have_their_names_after_their_ids() -> None:
    pieces = (call(0, "a"), call(0, "a", "f", "{}"), call(0, "b"), call(0, "b", "g", "[]"))
    assert calls_of(*pieces) == [("a", "f", "{}"), ("b", "g", "[]")]


def test_two_names_in_one_delta_are_two_calls() -> None:
    delta = {"tool_calls": [{"index": 0, "function": {"name": name, "arguments": "{}"}} for name in ("f", "g")]}
    message = collect(delta)
    assert [each["function"]["name"] for each in message["tool_calls"]] == ["f", "g"]


def test_one_id_at_two_indexes_is_two_calls() -> None:
    assert calls_of(call(0, "a", "f", "1"), call(1, "a", "g", "2"), call(0, "a", None, "3")) == [
        ("a", "f", "13"),
        ("a", "g", "2"),
    ]


def test_a_name_that_comes_in_pieces_is_put_together() -> None:
    assert calls_of(call(0, "a", "get_"), call(0, None, "weather"), call(0, None, None, "{}")) == [
        ("a", "get_weather", "{}")
    ]
    assert calls_of(call(0, "a", "get_"), call(0, "a", "weather"), call(0, "a", "get_weather", "{}")) == [
        ("a", "get_weather", "{}")
    ]


def test_an_index_may_be_written_in_other_ways() -> None:
    assert calls_of(call("0", "a", "f", "1"), call("1", "b", "g", "2"), call(0.0, None, None, "3")) == [
        ("a", "f", "13"),
        ("b", "g", "2"),
    ]
    collector = ChatCollector()
    for index in ("0", 0, 0.0, "1"):
        collector.add_chunk({"choices": [{"index": index, "delta": {"content": "x"}}]})
    contents = [choice["message"]["content"] for choice in collector.make_response()["choices"]]
    assert contents == ["xxx", "x"]


def test_a_whole_completion_as_an_event_is_read_as_one() -> None:
    collector = ChatCollector()
    message = {"role": "assistant", "content": "hi"}
    collector.add_chunk({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})
    assert collector.make_response()["choices"][0]["message"] == message


def test_half_an_emoji_finds_its_other_half() -> None:
    collector = ChatCollector()
    for half in (b"\\ud83d", b"\\ude00"):
        collector.add(b'{"created": 1e400, "choices": [{"delta": {"content": "' + half + b'"}, "logprobs": NaN}]}')
    completion = json.loads(encode(collector.make_response()))
    assert completion["choices"][0]["message"]["content"] == "\U0001f600" and completion["created"] is None


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.just("0"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["choices", "index", "delta", "message", "tool_calls", "function", "name", "id", "content", "logprobs"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
PIECES = st.fixed_dictionaries({}, optional={"index": ODD, "delta": ODD, "message": ODD, "logprobs": ODD, "x": ODD})
DELTAS = st.fixed_dictionaries({}, optional={"tool_calls": ODD | st.lists(ODD), "content": ODD, "role": ODD})
ODD_CHUNKS = st.fixed_dictionaries(
    {}, optional={"choices": ODD | st.lists(ODD | PIECES | st.builds(lambda delta: {"delta": delta}, DELTAS))}
)


@settings(max_examples=examples(150), deadline=None)
@given(st.lists(ODD_CHUNKS, max_size=4))
def test_chunks_of_any_types_make_a_completion(chunks: list[dict[str, Any]]) -> None:
    collector = ChatCollector()
    for chunk in chunks:
        collector.add(json.dumps(chunk).encode())
    completion = collector.make_response()
    assert isinstance(completion["choices"], list) and encode(completion)


def test_what_is_nested_too_deeply_is_a_cut() -> None:
    with pytest.raises(UpstreamCut):
        ChatCollector().add(b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}")


def test_collecting_can_go_on_after_a_response() -> None:
    pieces = [
        {"delta": {"content": part, "function_call": {"arguments": part}}, "logprobs": {"content": [part]}, "ids": [1]}
        for part in ("a", "b", "c")
    ]
    collector = ChatCollector()
    for number, piece in enumerate(pieces):
        collector.add_chunk({"choices": [{"index": 0, **piece}]})
        (choice,) = collector.make_response()["choices"]
        text = "abc"[: number + 1]
        assert choice["message"]["content"] == choice["message"]["function_call"]["arguments"] == text
        assert choice["logprobs"]["content"] == list(text) and choice["ids"] == [1] * (number + 1)


def test_more_than_a_thousand_tool_calls_are_refused() -> None:
    collector = ChatCollector()
    with pytest.raises(UpstreamCut, match="1,000 tool calls"):
        for index in range(1_001):
            collector.add_chunk({"choices": [{"delta": {"tool_calls": [{"index": index, "id": str(index)}]}}]})
    assert len(collector.make_response()["choices"][0]["message"]["tool_calls"]) == 1_000
