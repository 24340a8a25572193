"""Observes the chunks of a stream of completions."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from app.lenient_json import replace_surrogates
from app.services.endpoints.chunk_stream import Choice, Chunk, Delta, make_observers, read_odd_choice
from app.services.endpoints.chunk_usage import ChunkUsage
from app.services.endpoints.deltas import as_index
from app.services.endpoints.odd_chunks import refuse, repair_frame
from app.services.endpoints.stream_summary import StreamSummary


class _Choice(msgspec.Struct, gc=False):
    index: int
    text: str
    finish_reason: str | None = None
    error: None = None
    logprobs: Any = None  # As in chat's choices.


class _Chunk(msgspec.Struct, gc=False):
    """The fields of a chunk that the gateway reads."""

    choices: list[_Choice]
    model: str | None = None
    usage: ChunkUsage | None = None
    error: None = None


_decode_chunk = msgspec.json.Decoder(_Chunk).decode


def _decode(data: bytes) -> Chunk:
    chunk = _decode_chunk(data)
    choices = [Choice(choice.index, Delta(choice.text), choice.finish_reason) for choice in chunk.choices]
    return Chunk(choices, chunk.model, chunk.usage)


def _read_choice(choice: dict[str, Any]) -> Choice:
    return read_odd_choice(choice, Delta(replace_surrogates(choice["text"])))


def _repair(value: dict[str, Any], choices: list[dict[str, Any]], summary: StreamSummary) -> bool:
    """Repairs parts that SDKs, or the loops of programs that use them, cannot read; see `Repair`."""
    is_changed = repair_frame(value, choices)
    for position, choice in enumerate(choices):
        if type(choice.get("index")) is not int:
            index = as_index(choice.get("index"))
            choice["index"], is_changed = position if index is None else index, True
        if not isinstance(choice.get("text"), str):
            choice["text"], is_changed = _find_text(choice), True
    return is_changed


def _find_text(choice: dict[str, Any]) -> str:
    """Returns the text of a choice whose `text` is not a string, because programs concatenate the texts."""
    text = choice.get("text")
    if text is None:  # Some servers send chunks of chat on this path, and some omit an empty text.
        part = choice.get("delta") or choice.get("message")
        text = part.get("content") if isinstance(part, dict) else part
    if text is None or isinstance(text, str):
        return text or ""
    if isinstance(text, dict | list):
        refuse()
    return json.dumps(text)


observe_completion_chunk, note_completion_chunk, COMPLETION_STEPS = make_observers(_decode, _repair, _read_choice)
