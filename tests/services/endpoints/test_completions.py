"""Streams of completions, however their chunks are interleaved and cut; and odd chunks, whatever a provider sends."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import BadRequest
from app.services.endpoints import ENDPOINTS, Endpoint, Usage
from app.services.inference.validation import validate_body
from app.services.streaming import EventReader
from tests.support.sdks import openai
from tests.support.soak import examples

(COMPLETIONS,) = [endpoint for endpoint in ENDPOINTS if endpoint.path == "/v1/completions"]
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def legacy_logprobs(text: str) -> dict[str, list[Any]]:
    """Returns the parallel arrays of a text whose tokens are its characters."""
    logprobs = [-0.5 * at for at in range(len(text))]
    tops = [{char: value} for char, value in zip(text, logprobs, strict=True)]
    return {
        "tokens": list(text),
        "token_logprobs": logprobs,
        "top_logprobs": tops,
        "text_offset": list(range(len(text))),
    }


@st.composite
def interleaved(draw: st.DrawFn) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Draws a completion of one to four choices and the chunks of a stream of it, in any order."""
    texts = draw(st.lists(TEXTS, min_size=1, max_size=4))
    has_logprobs = draw(st.booleans())
    choices = [
        {
            "index": index,
            "text": text,
            "logprobs": legacy_logprobs(text) if has_logprobs and text else None,
            "finish_reason": draw(st.sampled_from(["stop", "length"])),
        }
        for index, text in enumerate(texts)
    ]
    head = {"id": "cmpl-1", "object": "text_completion", "created": 1_795_348_800, "model": "m"}
    usage = {"prompt_tokens": 7, "completion_tokens": 9, "total_tokens": 16}
    waiting = [_cut(draw, choice) for choice in choices]
    chunks = []
    while waiting := [pieces for pieces in waiting if pieces]:
        turn = draw(st.lists(st.integers(0, len(waiting) - 1), min_size=1, max_size=len(waiting), unique=True))
        chunks.append({**head, "choices": [waiting[which].pop(0) for which in turn], "usage": None})
    chunks[-1]["usage"] = usage
    return {**head, "choices": choices, "usage": usage}, chunks


def _cut(draw: st.DrawFn, choice: dict[str, Any]) -> list[dict[str, Any]]:
    text, logprobs = choice["text"], choice["logprobs"]
    cuts = sorted({draw(st.integers(0, len(text))) for _ in range(2)} - {0, len(text)})
    pieces = []
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        part = None if logprobs is None else {name: values[start:end] for name, values in logprobs.items()}
        pieces.append({"index": choice["index"], "text": text[start:end], "logprobs": part, "finish_reason": None})
    if draw(st.booleans()):  # The finish reason comes in a piece of its own, or else in the last piece of text.
        pieces.append({"index": choice["index"], "text": "", "logprobs": None, "finish_reason": None})
    pieces[-1]["finish_reason"] = choice["finish_reason"]
    return pieces


def make_stream(chunks: list[dict[str, Any]]) -> bytes:
    return b"".join(b"data: %b\n\n" % json.dumps(chunk).encode() for chunk in chunks) + b"data: [DONE]\n\n"


def read_in_pieces(reader: EventReader, stream: bytes, cuts: list[int]) -> bytes:
    ends = sorted({min(cut, len(stream)) for cut in cuts} | {len(stream)})
    shown = b"".join(reader.read(stream[a:b], 1.0) for a, b in zip([0, *ends], ends, strict=False) if a < b)
    return shown + reader.read_end(2.0)


def parse(shown: bytes) -> list[Any]:
    return [json.loads(block[6:]) for block in shown.decode().split("\n\n") if block.startswith("data: {")]


def parse_strictly(chunk: dict[str, Any]) -> openai.types.Completion:
    """Parses a chunk with the SDK's type, which requires finish reasons, so null ones are replaced."""
    choices = [choice | {"finish_reason": choice["finish_reason"] or "stop"} for choice in chunk["choices"]]
    return openai.types.Completion.model_validate(chunk | {"choices": choices})


CUTS = st.lists(st.integers(1, 4_000), max_size=8)


@settings(max_examples=examples(60), deadline=None)
@given(interleaved(), CUTS)
def test_a_stream_interleaved_and_cut_in_any_way_has_the_texts_of_the_whole_answer(
    drawn: tuple[dict[str, Any], list[dict[str, Any]]], cuts: list[int]
) -> None:
    whole, chunks = drawn
    reader = EventReader(
        COMPLETIONS, "Provider", key_setting="KEY", show_usage=True, choices_expected=len(whole["choices"])
    )
    shown = read_in_pieces(reader, make_stream(chunks), cuts)
    assert reader.error is None and reader.summary.is_done and shown.endswith(b"data: [DONE]\n\n")
    events = [parse_strictly(chunk) for chunk in parse(shown)]
    for choice in whole["choices"]:
        pieces = [each.text for event in events for each in event.choices if each.index == choice["index"]]
        assert "".join(pieces) == choice["text"]
    assert reader.summary.usage == Usage(7, 9)

    assert COMPLETIONS.stream is not None
    collector = COMPLETIONS.stream.make_collector()
    reader = EventReader(COMPLETIONS, "Provider", key_setting="KEY", show_usage=False, collector=collector)
    assert read_in_pieces(reader, make_stream(chunks), cuts) == b"" and reader.error is None
    assert collector.make_response() == whole


@settings(max_examples=examples(60), deadline=None)
@given(interleaved(), st.data())
def test_a_stream_that_lacks_the_end_of_any_choice_is_not_complete(
    drawn: tuple[dict[str, Any], list[dict[str, Any]]], data: st.DataObject
) -> None:
    whole, chunks = drawn
    index = data.draw(st.integers(0, len(whole["choices"]) - 1))
    for chunk in chunks:
        for choice in chunk["choices"]:
            if choice["index"] == index:
                choice["finish_reason"] = None
    if data.draw(st.booleans()):  # The choice is missing altogether.
        chunks = [
            {**chunk, "choices": [choice for choice in chunk["choices"] if choice["index"] != index]}
            for chunk in chunks
        ]
    reader = EventReader(
        COMPLETIONS, "Provider", key_setting="KEY", show_usage=True, choices_expected=len(whole["choices"])
    )
    shown = read_in_pieces(reader, make_stream(chunks), [])
    assert reader.error is not None and b"[DONE]" not in shown and parse(shown)[-1]["error"]["code"] == "upstream_cut"


@settings(max_examples=examples(40), deadline=None)
@given(interleaved(), CUTS)
def test_a_whole_answer_in_place_of_a_stream_becomes_one(
    drawn: tuple[dict[str, Any], list[dict[str, Any]]], cuts: list[int]
) -> None:
    whole, _ = drawn
    reader = EventReader(
        COMPLETIONS, "Provider", key_setting="KEY", show_usage=True, choices_expected=len(whole["choices"])
    )
    shown = read_in_pieces(reader, json.dumps(whole).encode(), cuts)
    assert reader.error is None and shown.endswith(b"data: [DONE]\n\n")
    assert COMPLETIONS.stream is not None
    collector = COMPLETIONS.stream.make_collector()
    for chunk in parse(shown):
        collector.add(json.dumps(chunk).encode())
    assert collector.make_response() == whole


ODD = st.sampled_from([10**30, -1, 3.5, float("nan"), float("inf"), "\ud83d", "", "0", True, None, [], {}])
VALUES = st.recursive(
    ODD | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=5,
)
CHOICES = st.fixed_dictionaries(
    {},
    optional={
        "index": st.integers(0, 3) | VALUES,
        "text": st.text(max_size=5) | VALUES,
        "delta": st.fixed_dictionaries({"content": st.text(max_size=5)}) | VALUES,
        "finish_reason": st.sampled_from(["stop", "error"]) | VALUES,
        "logprobs": VALUES,
    },
)
CHUNKS = st.fixed_dictionaries(
    {},
    optional={
        "model": st.text(max_size=5) | VALUES,
        "choices": st.lists(CHOICES | VALUES, max_size=3) | VALUES,
        "usage": st.fixed_dictionaries({"prompt_tokens": st.integers(0, 9)}) | VALUES,
        "error": VALUES,
    },
)


def refuse_constant(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


@settings(max_examples=examples(300), deadline=None)
@given(CHUNKS | VALUES, st.booleans())
def test_any_json_is_read_and_what_clients_get_is_a_chunk_a_comment_or_an_error(value: Any, ends: bool) -> None:
    reader = EventReader(COMPLETIONS, "Provider", key_setting="KEY", show_usage=True)
    event = b"data: " + json.dumps(value).encode()
    shown = reader.read(event + b"\n\n", 1.0) if ends else reader.read(event, 1.0) + reader.read_end(1.0)
    for block in shown.split(b"\n\n"):
        data = [line[6:] for line in block.split(b"\n") if line.startswith(b"data: ")]
        assert data or block in {b"", b": keep-alive"}
        if data:
            chunk = json.loads(b"\n".join(data).decode(), parse_constant=refuse_constant)
            assert chunk.get("error") or all(
                type(choice["index"]) is int and isinstance(choice["text"], str) for choice in chunk["choices"]
            )


def check(body: dict[str, Any], endpoint: Endpoint = COMPLETIONS) -> None:
    validate_body({"model": "m"} | body, endpoint.body)


@pytest.mark.parametrize("prompt", ["", "a", "half of a \ud83d", ["a", "b"], [1, 2], [[1], [2, 3]]])
def test_all_forms_of_a_prompt_are_accepted(prompt: Any) -> None:
    check({"prompt": prompt})


@pytest.mark.parametrize("prompt", [5, [], ["a", 1], [["a"]], [[]], [1.5], [True], {"text": "a"}, [[1], "a"]])
def test_other_prompts_are_refused(prompt: Any) -> None:
    with pytest.raises(BadRequest, match="a list of token ids") as caught:
        check({"prompt": prompt})
    assert caught.value.param == "prompt"


def test_a_request_for_thousands_of_answers_is_refused() -> None:
    with pytest.raises(BadRequest, match="at most 1,000 answers"):
        check({"prompt": ["a"] * 11, "n": 100})
