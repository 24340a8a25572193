"""Chunks of a stream of completions: reads what the gateway must know of each, as chat_chunks.py does for chat."""

from __future__ import annotations

import gc
import json
from typing import Any

import msgspec

from app.json_structure import decode_many
from app.lenient_json import replace_surrogates
from app.services.endpoints.chunk_usage import ChunkUsage, record_usage
from app.services.endpoints.deltas import as_index
from app.services.endpoints.endpoint import EventKind
from app.services.endpoints.odd_chunks import LONG_BYTES, ChunkForm, observe_odd_chunk, refuse
from app.services.endpoints.stream_summary import StreamSummary


class _Choice(msgspec.Struct, gc=False):
    index: int
    text: str
    finish_reason: str | None = None
    error: None = None
    logprobs: Any = None  # Read only because infinite numbers are found so: msgspec does not look into other fields.


class _Chunk(msgspec.Struct, gc=False):
    """The fields of a chunk that the gateway reads."""

    choices: list[_Choice]
    model: str | None = None
    usage: ChunkUsage | None = None
    error: None = None


_decode_chunk = msgspec.json.Decoder(_Chunk).decode


def observe_completion_chunk(data: bytes, summary: StreamSummary, now_s: float) -> EventKind:
    """Records in `summary` what a chunk contains, and returns its kind; see `StreamProtocol.observe`."""
    if len(data) >= LONG_BYTES and gc.isenabled():
        kind: EventKind = decode_many(lambda content: observe_completion_chunk(content, summary, now_s), data)
        return kind
    try:
        chunk = _decode_chunk(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return observe_odd_chunk(data, summary, now_s, _FORM)
    if not _record(chunk.model, chunk.choices, summary, now_s):
        return observe_odd_chunk(data, summary, now_s, _FORM)
    if chunk.usage is None:
        return EventKind.CONTENT
    record_usage(chunk.usage.flatten(), summary)
    return EventKind.CONTENT if chunk.choices else EventKind.USAGE


def _record(model: str | None, choices: list[_Choice], summary: StreamSummary, now_s: float) -> bool:
    """Records the model and the choices of a chunk. Returns False, with nothing counted, if a choice has failed."""
    outputs = 0
    for choice in choices:
        if choice.finish_reason == "error":
            return False
        if choice.text:
            outputs += 1
        summary.begun.add(choice.index)
        if choice.finish_reason:
            summary.finished.add(choice.index)
            summary.finish_reason = summary.finish_reason or choice.finish_reason
    summary.events += 1
    summary.model = summary.model or model
    if outputs:
        summary.output_events += outputs
        summary.last_output_s = now_s
        if summary.first_output_s is None:
            summary.first_output_s = now_s
    return True


def _record_odd(model: str | None, choices: list[dict[str, Any]], summary: StreamSummary, now_s: float) -> None:
    _record(model, [_read_choice(choice) for choice in choices], summary, now_s)


def _read_choice(choice: dict[str, Any]) -> _Choice:
    reason = choice.get("finish_reason")
    return _Choice(
        index=choice["index"],
        text=replace_surrogates(choice["text"]),
        finish_reason=replace_surrogates(str(reason)) if reason else None,
    )


def _repair(value: dict[str, Any], choices: list[dict[str, Any]], summary: StreamSummary) -> bool:
    """Changes what SDKs, or the loops of programs that use them, cannot read; returns whether it changed anything."""
    is_changed = False
    if value.get("error") is not None and not isinstance(value["error"], str | bool | int | float):
        value["error"], is_changed = None, True  # Node's SDK raises for every `error` that is true, also for {}.
    if value.get("choices") != choices:
        value["choices"], is_changed = choices, True
    for position, choice in enumerate(choices):
        if type(choice.get("index")) is not int:
            index = as_index(choice.get("index"))
            choice["index"], is_changed = position if index is None else index, True
        if not isinstance(choice.get("text"), str):
            choice["text"], is_changed = _find_text(choice), True
    return is_changed


def _find_text(choice: dict[str, Any]) -> str:
    """Returns the text of a choice whose `text` is no string; programs add the texts up."""
    text = choice.get("text")
    if text is None:  # Some servers send chunks of chat on this path, and some omit an empty text.
        part = choice.get("delta") or choice.get("message")
        text = part.get("content") if isinstance(part, dict) else part
    if text is None or isinstance(text, str):
        return text or ""
    if isinstance(text, dict | list):
        refuse()
    return json.dumps(text)


_FORM = ChunkForm(_repair, _record_odd)
