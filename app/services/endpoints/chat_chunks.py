"""Chunks of a chat stream: reads what the gateway must know of each, also of those that are not as they should be.

Nearly every chunk is decoded into the records below. What these refuse, or what has no choices, is read again by
`_observe_odd_chunk`, slower and field by field. An event that clients can read passes, one that they cannot read is
repaired, and one that may hold output in an unknown form ends the stream.
"""

from __future__ import annotations

import gc
import json
import math
from codecs import BOM_UTF8
from typing import Annotated, Any, NoReturn

import msgspec
from msgspec import Meta

from app.json_structure import decode_many
from app.lenient_json import decode_leniently, replace_surrogates
from app.services.endpoints.chat_repair import find_failure, has_content, refuse, repair
from app.services.endpoints.endpoint import EventKind, RepairedEvent
from app.services.endpoints.stream_summary import StreamSummary, Usage
from app.services.endpoints.usage import MAX_PLAUSIBLE_TOKENS, merge_usages, read_usage

_Count = Annotated[int, Meta(ge=0, le=MAX_PLAUSIBLE_TOKENS)] | None


class _PromptDetails(msgspec.Struct, gc=False):
    cached_tokens: _Count = None


class _CompletionDetails(msgspec.Struct, gc=False):
    reasoning_tokens: _Count = None


class _ChatUsage(msgspec.Struct, gc=False):
    """`usage` in chunks; what does not fit is read by `read_usage`."""

    prompt_tokens: _Count = None
    completion_tokens: _Count = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None

    def flatten(self) -> Usage:
        prompt, completion = self.prompt_tokens_details, self.completion_tokens_details
        return Usage(
            self.prompt_tokens,
            self.completion_tokens,
            None if prompt is None else prompt.cached_tokens,
            None if completion is None else completion.reasoning_tokens,
        )


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
    usage: _ChatUsage | None = None
    error: None = None


# A longer chunk may have so many elements that collecting garbage meanwhile takes most of the time.
_LONG_BYTES = 8_192

# Reading an odd choice takes a microsecond. No valid chunk has more.
_MAX_ODD_CHOICES = 1_000

_decode_chunk = msgspec.json.Decoder(_Chunk).decode
_decode_any = msgspec.json.Decoder().decode
_encode_any = msgspec.json.Encoder().encode


def observe_chunk(data: bytes, summary: StreamSummary, now_s: float) -> EventKind:
    """Records in `summary` what a chunk contains, and returns its kind; see `StreamProtocol.observe`."""
    if len(data) >= _LONG_BYTES and gc.isenabled():
        kind: EventKind = decode_many(lambda content: observe_chunk(content, summary, now_s), data)
        return kind
    try:
        chunk = _decode_chunk(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _observe_odd_chunk(data, summary, now_s)
    if not _record(chunk.model, chunk.choices, summary, now_s):
        return _observe_odd_chunk(data, summary, now_s)
    if chunk.usage is None:
        return EventKind.CONTENT
    _record_usage(chunk.usage.flatten(), summary)
    return EventKind.CONTENT if chunk.choices else EventKind.USAGE


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


def _record_usage(usage: Usage | None, summary: StreamSummary) -> None:
    """Keeps the last usage: Chutes sends a running total with each chunk."""
    if usage is None:
        return
    is_whole = usage.prompt_tokens is not None and usage.completion_tokens is not None
    summary.usage = usage if is_whole else merge_usages(summary.usage, usage)


def _observe_odd_chunk(data: bytes, summary: StreamSummary, now_s: float) -> EventKind:
    """Does the same as `observe_chunk` for what the typed decoder refuses, and for what may be no chunk."""
    stripped = data.removeprefix(BOM_UTF8).strip()
    read = stripped if stripped != data else _read_odd_chunk(data, summary, now_s)
    if isinstance(read, bytes):
        # Not every client expects spaces around `[DONE]`, or a byte order mark.
        raise RepairedEvent(read)  # Raised here, where no name keeps the objects that have been read.
    return read


def _read_odd_chunk(data: bytes, summary: StreamSummary, now_s: float) -> EventKind | bytes:
    """Returns the kind of a chunk, which is then recorded, or the repaired chunk, of which nothing is."""
    value, is_readable = _decode_odd(data)
    if not isinstance(value, dict):
        if isinstance(value, str) or (isinstance(value, list) and value):
            refuse()
        return EventKind.OTHER  # A number, true, false, null or []: nothing is lost with it.
    if has_content(value.get("error")):
        return EventKind.ERROR
    choices = value.get("choices")
    if choices and (not isinstance(choices, list) or len(choices) > _MAX_ODD_CHOICES):
        refuse()
    present = [choice for choice in choices or () if choice is not None]
    if not present and choices != [] and value.get("usage") is None:
        return EventKind.OTHER
    if (failure := find_failure(present)) is not None:
        return _encode({"error": failure})
    if repair(value, present, summary) or not is_readable:
        return _encode(value)
    model = value.get("model")
    read = [_read_choice(choice) for choice in value["choices"]]
    _record(replace_surrogates(model) if isinstance(model, str) else None, read, summary, now_s)
    _record_usage(read_usage(value.get("usage")), summary)
    return EventKind.CONTENT if read or value.get("usage") is None else EventKind.USAGE


def _decode_odd(data: bytes) -> tuple[Any, bool]:
    """Returns the JSON value of an event, and whether every client can read its bytes as they are."""
    try:
        return _decode_any(data), True  # Ten times as fast, if only the types are odd.
    except (msgspec.DecodeError, ValueError, RecursionError):
        pass
    try:
        return _strict_decoder.decode(data.decode()), True
    except (ValueError, RecursionError):
        pass
    try:
        return decode_leniently(data), False
    except ValueError:
        refuse()


def _encode(value: dict[str, Any]) -> bytes:
    try:
        return _encode_any(value)
    except (UnicodeEncodeError, OverflowError, RecursionError):
        pass  # msgspec refuses whole numbers of more than 64 bits. Lone surrogates become escapes again.
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except RecursionError:
        refuse()
    return text.encode(errors="backslashreplace")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"JSON has no {name}")


def _read_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("the number is infinite")
    return number


# Reads what the SDKs' parsers read. The infinite number 1e400 is legal JSON, but no program expects it.
_strict_decoder = json.JSONDecoder(parse_float=_read_float, parse_constant=_refuse_constant)


def _read_choice(choice: dict[str, Any]) -> _Choice:
    delta, reason = choice["delta"], choice.get("finish_reason")
    return _Choice(
        index=choice["index"],
        finish_reason=replace_surrogates(str(reason)) if reason else None,
        delta=_Delta(*(delta.get(name) for name in _Delta.__struct_fields__)),
    )
