"""Streams of chunks with choices, for chat and completions: requesting, observing, collecting and making them.

Nearly every chunk is decoded into typed records, which refuse unexpected values. `observe_odd_chunk` reads refused
chunks again, more slowly and field by field: an event that clients can read passes, one that they cannot read is
repaired, and one that may hold output in an unknown form ends the stream.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from app.json_structure import decode_many
from app.lenient_json import replace_surrogates
from app.services.endpoints.chunk_usage import ChunkUsage, record_usage
from app.services.endpoints.endpoint import Collector, EventKind, NoteSteps
from app.services.endpoints.odd_chunks import LONG_BYTES, Repair, observe_odd_chunk
from app.services.endpoints.stream_summary import StreamSummary

# Data that is not a chunk. Featherless sends `data: null` now and then. SDKs crash on the latter two.
_MARKERS = {b"[DONE]": EventKind.DONE, b"null": EventKind.EMPTY, b"": EventKind.EMPTY}
_LONGEST_MARKER = max(map(len, _MARKERS))  # Longer data is not hashed.

# Local names, because looking up an enum member takes 0.1 µs.
_CONTENT, _USAGE = EventKind.CONTENT, EventKind.USAGE

Observe = Callable[[bytes, StreamSummary, float], EventKind]
Note = Callable[[bytes, StreamSummary, float], EventKind | None]


class Call(msgspec.Struct, gc=False):
    """A piece of a tool call; programs assemble the pieces by index."""

    index: int


class Delta(msgspec.Struct, gc=False):
    """The part of one choice in a chunk. Only its presence matters, and that programs can concatenate it."""

    content: str | list[Any] | None = None
    reasoning_content: str | list[Any] | None = None
    reasoning: Any = None
    tool_calls: list[Call] | None = None
    function_call: Any = None


class Choice(msgspec.Struct, gc=False):
    """One choice of a chunk. A choice with an error is refused, and so is an infinite number in `logprobs`."""

    index: int
    delta: Delta
    finish_reason: str | None = None
    error: None = None
    logprobs: Any = None  # Read only to find infinite numbers: msgspec does not look into undeclared fields.


class Chunk(msgspec.Struct, gc=False):
    """The fields of a chunk that the gateway reads, in chat's form.

    Decoding a chunk into these records takes 2 µs, no more than the byte searches that could classify most chunks
    without decoding, and it detects every malformed one.
    """

    choices: list[Choice]
    model: str | None = None
    usage: ChunkUsage | None = None
    error: None = None


def make_observers(
    decode: Callable[[bytes], Chunk], repair: Repair, read_choice: Callable[[dict[str, Any]], Choice]
) -> tuple[Observe, Note, NoteSteps]:
    """Returns the functions that observe the events of an endpoint; see `StreamProtocol`.

    Args:
        decode: data → a normal chunk; raises msgspec's exceptions for any other data.
        repair: see `Repair`.
        read_choice: converts a repaired choice of an odd chunk to a record.
    """

    note = _make_note(decode)

    def record_odd(model: str | None, choices: list[dict[str, Any]], summary: StreamSummary, now_s: float) -> None:
        record_chunk(Chunk([read_choice(choice) for choice in choices], model), summary, now_s)

    def observe(data: bytes, summary: StreamSummary, now_s: float) -> EventKind:
        if len(data) <= _LONGEST_MARKER and data in _MARKERS:
            return _MARKERS[data]
        if len(data) >= LONG_BYTES and gc.isenabled():
            kind: EventKind = decode_many(lambda content: observe(content, summary, now_s), data)
            return kind
        noted = note(data, summary, now_s)
        return observe_odd_chunk(data, summary, now_s, repair, record_odd) if noted is None else noted

    return observe, note, NoteSteps(decode, record_chunk)


def _make_note(decode: Callable[[bytes], Chunk]) -> Note:
    def note(data: bytes, summary: StreamSummary, now_s: float) -> EventKind | None:
        try:
            chunk = decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        return record_chunk(chunk, summary, now_s)

    return note


def record_chunk(chunk: Chunk, summary: StreamSummary, now_s: float) -> EventKind | None:
    """Records a chunk that arrived at `now_s`. Returns its kind, or None, with nothing recorded, if a choice failed."""
    outputs = 0
    for choice in chunk.choices:
        index, delta, reason = choice.index, choice.delta, choice.finish_reason
        if reason == "error":
            return None
        if delta.content or delta.reasoning_content or delta.reasoning or delta.tool_calls or delta.function_call:
            outputs += 1
        summary.begun.add(index)
        if reason:
            summary.finished.add(index)
            summary.finish_reason = summary.finish_reason or reason
    summary.events += 1
    summary.model = summary.model or chunk.model
    if outputs:
        summary.output_events += outputs
        summary.last_output_s = now_s
        if summary.first_output_s is None:
            summary.first_output_s = now_s
    if chunk.usage is None:
        return _CONTENT
    record_usage(chunk.usage.flatten(), summary)
    return _CONTENT if chunk.choices else _USAGE


def read_odd_choice(choice: dict[str, Any], delta: Delta) -> Choice:
    """Returns the record for a choice of an odd chunk; `delta` is its added output."""
    reason = choice.get("finish_reason")
    return Choice(choice["index"], delta, replace_surrogates(str(reason)) if reason else None)


@dataclass(frozen=True, slots=True)
class ChunkStreamProtocol:
    """Chunks with choices, `[DONE]` at the end; see `StreamProtocol`, which describes each attribute."""

    title: str
    observe: Observe
    note: Note
    note_steps: NoteSteps
    make_collector: Callable[[], Collector]
    make_events: Callable[[dict[str, Any]], bytes]
    heartbeat: bytes = b": keep-alive\n\n"
    event_names: frozenset[bytes] = frozenset({b"", b"message", b"data", b"chunk", b"completion"})

    def request_stream(self, body: dict[str, Any]) -> None:
        """Sets `stream`, and `include_usage` beside the client's own stream options."""
        body["stream"] = True
        body["stream_options"] = {**(body.get("stream_options") or {}), "include_usage": True}

    def wants_usage(self, body: dict[str, Any]) -> bool:
        """Returns whether the client set `include_usage`."""
        return bool((body.get("stream_options") or {}).get("include_usage"))

    def is_complete(self, summary: StreamSummary) -> bool:
        """Returns whether every requested choice, and every other that has begun, has its finish reason."""
        return len(summary.finished) >= summary.choices_expected and summary.begun <= summary.finished
