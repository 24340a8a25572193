"""Server-Sent Events: splits a byte stream into events, and extracts their data.

The framing follows the section "Server-sent events" of the HTML standard: lines end in LF, CRLF or CR, a blank line
ends an event, and a line that begins with a colon is a comment.
"""

from __future__ import annotations

import re
from codecs import BOM_UTF8

from app.errors import UpstreamCut
from app.json_structure import count_elements, get_structure
from app.logs import redact

# The longest events are tool calls sent in one piece and logprobs. A longer event cannot be part of a valid stream.
MAX_EVENT_BYTES = 8 << 20

# The most objects, arrays and keys of an event. More would block the worker for a noticeable time.
MAX_EVENT_ELEMENTS = 100_000

# More events than this in one read, of 16 KB at most, would be too short to have a meaning, and too expensive each.
_MAX_EVENTS_PER_READ = 1_000
_FEW_BYTES = 16

_BLANK_LINE = re.compile(rb"\r\n\r\n|\n\n|\r\r|\n\r\n|\r\n\n")
_LINE_END = re.compile(rb"\r\n|\n|\r")
_MARK = re.compile(rb"(\A|[\r\n])" + BOM_UTF8)  # A byte order mark at the beginning of a line.

# The bytes of an event, including its final blank line, and its data; None for an event without data.
Event = tuple[bytes, bytes | None]


class SseDecoder:
    """Finds whole events in bytes that arrive in arbitrary pieces."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def has_part(self) -> bool:
        """Whether the beginning of an event has arrived but not its end."""
        return bool(self._buffer)

    def decode(self, data: bytes) -> list[Event]:
        """Returns the events that are complete after `data`, and keeps the rest.

        Raises:
            UpstreamCut: an event is longer than MAX_EVENT_BYTES, or has more than MAX_EVENT_ELEMENTS, or events are
                only a few bytes long.
        """
        buffer = self._buffer
        if not buffer and data.endswith(b"\n\n"):
            if data.startswith(b"data: {") and data.find(b"\n") == len(data) - 2 and b"\r" not in data:
                return [(data, data[6:-2])]  # The usual case: one event of one line.
            return _read_events(data)
        # A blank line may have begun in the last three bytes of the buffer. The rest has been searched: searching it
        # again would take quadratic time, and megabytes without a line end would block the worker for seconds.
        start = max(0, len(buffer) - 3)
        buffer += data
        end = _find_last_event_end(buffer, start)
        if len(buffer) - end > MAX_EVENT_BYTES:
            raise _make_too_large(f"{MAX_EVENT_BYTES} bytes")
        if end == 0:
            return []
        events = bytes(buffer[:end])
        if end > MAX_EVENT_ELEMENTS:  # Shorter events cannot have this many.
            _raise_if_too_many_elements(events)
        del buffer[:end]
        return _read_events(events)

    def finish(self) -> list[Event]:
        """Returns the event that lacks its blank line at the end of the stream, as if it had one; usually none."""
        rest, self._buffer = bytes(self._buffer).strip(b"\r\n"), bytearray()
        return _read_events(rest + b"\n\n") if rest else []


def _read_events(events: bytes) -> list[Event]:
    # By the standard, a byte order mark at the beginning of a stream is ignored, but not every SDK does so. Proxies
    # that join streams leave one in the middle.
    single = split_events(_MARK.sub(rb"\1", events) if BOM_UTF8 in events else events)
    if len(single) > _MAX_EVENTS_PER_READ and len(events) < _FEW_BYTES * len(single):
        raise UpstreamCut("The provider sent events of a few bytes each, which no valid stream has. Retry.")
    return [(event, get_event_data(event)) for event in single]


def _raise_if_too_many_elements(events: bytes) -> None:
    structure = get_structure(events, MAX_EVENT_ELEMENTS)
    if structure is not None and count_elements(structure) > MAX_EVENT_ELEMENTS:
        raise _make_too_large(f"{MAX_EVENT_ELEMENTS:,} objects, arrays and keys")


def _make_too_large(what: str) -> UpstreamCut:
    return UpstreamCut(f"The provider sent an event of more than {what}. Request fewer tokens or alternatives.")


def _find_last_event_end(data: bytearray, start: int) -> int:
    """Returns the index after the last blank line of `data` from `start` on, or 0."""
    if data.find(b"\r", start) < 0:
        line_end = data.rfind(b"\n\n", start)
        return 0 if line_end < 0 else line_end + 2
    end = 0
    for match in _BLANK_LINE.finditer(data, start):
        end = match.end()
    return end


def split_events(events: bytes) -> list[bytes]:
    """Returns the single events in `events`, each with its final blank line."""
    if b"\r" not in events:
        if 0 < events.find(b"\n") == len(events) - 2:
            return [events]  # The usual case: one line.
        return [event + b"\n\n" for event in events.split(b"\n\n") if event.strip(b"\n")]
    if not events.strip(b"\r\n"):  # Nothing but line ends, each of which would otherwise be found and left out.
        return []
    single, start = [], 0
    for match in _BLANK_LINE.finditer(events):
        single.append(events[start : match.end()])
        start = match.end()
    return [event for event in single if event.strip()]


def is_comment(event: bytes) -> bool:
    """Returns whether one event consists of comments only."""
    return all(line.startswith(b":") for line in _LINE_END.split(event) if line)


def with_data(event: bytes, data: bytes) -> bytes:
    """Returns an event with other data; its name and its other fields are kept."""
    kept = [line for line in _LINE_END.split(event) if line and not line.startswith(b"data:")]
    return b"\n".join([*kept, *(b"data: " + line for line in data.split(b"\n"))]) + b"\n\n"


def get_event_name(event: bytes) -> bytes:
    """Returns the name of one event, which few providers use; `b""` if it has none."""
    names = [line[6:].strip() for line in _LINE_END.split(event) if line.startswith(b"event:")]
    return names[-1] if names else b""


def get_event_data(event: bytes) -> bytes | None:
    """Returns the data of one event, or None if it has none (a comment, a ping)."""
    if event.find(b"\n") == len(event) - 2 and b"\r" not in event:  # One line, as in the usual case.
        if event.startswith(b"data: "):
            return event[6:-2]
        if event.startswith(b":"):
            return None
    lines = [line[5:].removeprefix(b" ") for line in _LINE_END.split(event) if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None


def redact_fields(event: bytes) -> bytes:
    """Returns one event with secrets removed from all but its data: names, ids and comments are a provider's own."""
    return b"".join(
        line if line.startswith((b"data:", b"\r", b"\n")) else _redact_line(line)
        for line in event.splitlines(keepends=True)
    )


def _redact_line(line: bytes) -> bytes:
    return redact(line.decode(errors="surrogateescape")).encode(errors="surrogateescape")
