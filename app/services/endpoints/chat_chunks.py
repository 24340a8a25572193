"""Chunks of a chat stream: reads what the gateway must know of each, also of those that are not as they should be.

Nearly every chunk is decoded into the records below. What these refuse, or what has no choices, is read again by
`observe_odd_chunk`, slower and field by field. An event that clients can read passes, one that they cannot read is
repaired, and one that may hold output in an unknown form ends the stream.
"""

from __future__ import annotations

import gc
from typing import Any

import msgspec

from app.json_structure import decode_many
from app.lenient_json import replace_surrogates
from app.services.endpoints.chat_repair import repair
from app.services.endpoints.chunk_usage import ChunkUsage, record_usage
from app.services.endpoints.endpoint import EventKind
from app.services.endpoints.odd_chunks import LONG_BYTES, ChunkForm, observe_odd_chunk
from app.services.endpoints.stream_summary import StreamSummary


class _Call(msgspec.Struct, gc=False):
    """A piece of a tool call, which programs put together by its index."""

    index: int


class _Delta(msgspec.Struct, gc=False):
    """What a chunk adds to one choice. Only its presence matters, and that programs can add it up."""

    content: str | list[Any] | None = None
    reasoning_content: str | list[Any] | None = None
    reasoning: Any = None
    tool_calls: list[_Call] | None = None
    function_call: Any = None


class _Choice(msgspec.Struct, gc=False):
    index: int
    delta: _Delta
    finish_reason: str | None = None
    error: None = None
    logprobs: Any = None  # Read only because infinite numbers are found so: msgspec does not look into other fields.


class _Chunk(msgspec.Struct, gc=False):
    """The fields of a chunk that the gateway reads.

    Decoding a chunk into these records takes 2 µs, no more than the byte searches that could classify most chunks
    without decoding, and it detects every malformed one.
    """

    choices: list[_Choice]
    model: str | None = None
    usage: ChunkUsage | None = None
    error: None = None


_decode_chunk = msgspec.json.Decoder(_Chunk).decode

# A local name, because looking up a member of an enum takes 0.1 µs.
_CONTENT = EventKind.CONTENT


def observe_chunk(data: bytes, summary: StreamSummary, now_s: float) -> EventKind:
    """Records in `summary` what a chunk contains, and returns its kind; see `StreamProtocol.observe`."""
    if len(data) >= LONG_BYTES and gc.isenabled():
        kind: EventKind = decode_many(lambda content: observe_chunk(content, summary, now_s), data)
        return kind
    try:
        chunk = _decode_chunk(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return observe_odd_chunk(data, summary, now_s, _FORM)
    if not _record(chunk.model, chunk.choices, summary, now_s):
        return observe_odd_chunk(data, summary, now_s, _FORM)
    if chunk.usage is None:
        return _CONTENT
    record_usage(chunk.usage.flatten(), summary)
    return _CONTENT if chunk.choices else EventKind.USAGE


def _record(model: str | None, choices: list[_Choice], summary: StreamSummary, now_s: float) -> bool:
    """Records the model and the choices of a chunk. Returns False, with nothing counted, if a choice has failed."""
    outputs = 0
    for choice in choices:
        index, delta, reason = choice.index, choice.delta, choice.finish_reason
        if reason == "error":
            return False
        if delta.content or delta.reasoning_content or delta.reasoning or delta.tool_calls or delta.function_call:
            outputs += 1
        summary.begun.add(index)
        if reason:
            summary.finished.add(index)
            summary.finish_reason = summary.finish_reason or reason
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
    delta, reason = choice["delta"], choice.get("finish_reason")
    return _Choice(
        index=choice["index"],
        finish_reason=replace_surrogates(str(reason)) if reason else None,
        delta=_Delta(*(delta.get(name) for name in _Delta.__struct_fields__)),
    )


_FORM = ChunkForm(repair, _record_odd)
