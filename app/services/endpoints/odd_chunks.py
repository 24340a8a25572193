"""Reads unexpected chunks of a stream, for chat or completions.

A chunk that clients can read passes, one that they cannot read is repaired, and one that may hold output in an unknown
form ends the stream.
"""

from __future__ import annotations

import json
import math
from codecs import BOM_UTF8
from collections.abc import Callable
from typing import Any, NoReturn

import msgspec

from app.errors import UpstreamCut
from app.lenient_json import decode_leniently, replace_surrogates
from app.services.endpoints.chunk_usage import record_usage
from app.services.endpoints.endpoint import EventKind, RepairedEvent
from app.services.endpoints.stream_summary import StreamSummary
from app.services.endpoints.usage import read_usage

# In a longer chunk, which may have many elements, garbage collection during the read would take most of the time.
LONG_BYTES = 8_192

# Reading an odd choice takes a microsecond. No valid chunk has more than this.
_MAX_ODD_CHOICES = 1_000

_decode_any = msgspec.json.Decoder().decode
_encode_any = msgspec.json.Encoder().encode


# (chunk, its choices that are not null, the summary before it) → whether it changed the chunk in place, because clients
# could not read it.
Repair = Callable[[dict[str, Any], list[dict[str, Any]], StreamSummary], bool]
# (model, choices, summary, arrival time of the chunk): records them.
RecordOdd = Callable[[str | None, list[dict[str, Any]], StreamSummary, float], None]


def observe_odd_chunk(
    data: bytes, summary: StreamSummary, now_s: float, repair: Repair, record: RecordOdd
) -> EventKind:
    """Does the work of `StreamProtocol.observe` for data that the typed decoder refuses or that may be no chunk."""
    stripped = data.removeprefix(BOM_UTF8).strip()
    read = stripped if stripped != data else _read_odd_chunk(data, summary, now_s, repair, record)
    if isinstance(read, bytes):
        # Not every client expects spaces around `[DONE]`, or a byte order mark.
        raise RepairedEvent(read)  # Raised here, where no name refers to the objects that were read.
    return read


def _read_odd_chunk(
    data: bytes, summary: StreamSummary, now_s: float, repair: Repair, record: RecordOdd
) -> EventKind | bytes:
    """Returns the kind of a chunk, after recording it, or the repaired chunk, with nothing recorded."""
    value, is_readable = _decode_odd(data)
    if not isinstance(value, dict):
        if isinstance(value, str) or (isinstance(value, list) and value):
            refuse()
        return EventKind.OTHER  # A number, true, false, null or []: ignoring it loses nothing.
    if _has_content(value.get("error")):
        return EventKind.ERROR
    choices = value.get("choices")
    if choices and (not isinstance(choices, list) or len(choices) > _MAX_ODD_CHOICES):
        refuse()
    present = [choice for choice in choices or () if choice is not None]
    if not present and choices != [] and value.get("usage") is None:
        return EventKind.OTHER
    if (failure := _find_failure(present)) is not None:
        return _encode({"error": failure})
    if repair(value, present, summary) or not is_readable:
        return _encode(value)
    model = value.get("model")
    record(replace_surrogates(model) if isinstance(model, str) else None, value["choices"], summary, now_s)
    record_usage(read_usage(value.get("usage")), summary)
    return EventKind.CONTENT if value["choices"] or value.get("usage") is None else EventKind.USAGE


def repair_frame(value: dict[str, Any], choices: list[dict[str, Any]]) -> bool:
    """Repairs the fields around a chunk's choices; returns whether it changed anything. Arguments as for `Repair`."""
    is_changed = False
    if value.get("error") is not None and not isinstance(value["error"], str | bool | int | float):
        value["error"], is_changed = None, True  # Node's SDK raises for every truthy `error`, even {}.
    if value.get("choices") != choices:
        value["choices"], is_changed = choices, True
    return is_changed


def refuse() -> NoReturn:
    """Raises UpstreamCut for an event that may hold unreadable output."""
    raise UpstreamCut("The provider sent something that is not part of the response. Retry.")


def _has_content(value: Any) -> bool:
    """Returns whether the value of `error` has content; null, false, "", {} and objects of only these have none."""
    return any(value.values()) if isinstance(value, dict) else bool(value)


def _find_failure(choices: list[Any]) -> Any:
    """Returns the provider's report of a failed choice; None if none failed."""
    for choice in choices:
        if not isinstance(choice, dict):
            refuse()
        if _has_content(choice.get("error")):
            return choice["error"]
        if choice.get("finish_reason") == "error":
            return {"message": 'the generation failed with finish_reason "error"'}
    return None


def _decode_odd(data: bytes) -> tuple[Any, bool]:
    """Returns the JSON value of an event, and whether every client can read its original bytes."""
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


# Accepts the same JSON as the SDKs' parsers. The infinite number 1e400 is legal JSON, but no program expects it.
_strict_decoder = json.JSONDecoder(parse_float=_read_float, parse_constant=_refuse_constant)
