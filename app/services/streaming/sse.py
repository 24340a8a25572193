"""Server-Sent Events: a byte stream is cut into events, and the data of an event is found.

Framing after the HTML standard's section "server-sent events": lines end in LF, CRLF or CR, a blank line ends an
event, and a line that begins with a colon is a comment.
"""

from __future__ import annotations

import re

from app.errors import UpstreamCut

# The longest events are tool calls sent in one piece and logprobs. A line longer than this belongs to no stream.
MAX_EVENT_BYTES = 8 << 20

_BLANK_LINE = re.compile(rb"\r\n\r\n|\n\n|\r\r|\n\r\n|\r\n\n")
_LINE_END = re.compile(rb"\r\n|\n|\r")

# An event as it came, with the blank line that ends it, and its data; None for an event without data.
Event = tuple[bytes, bytes | None]


class SseDecoder:
    """Finds whole events in bytes that are cut anywhere."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def incomplete(self) -> bytes:
        """The beginning of an event whose end has not come yet."""
        return bytes(self._buffer)

    def decode(self, data: bytes) -> list[Event]:
        """Returns the events that have ended with `data`, and keeps the rest.

        Raises:
            UpstreamCut: an event is longer than MAX_EVENT_BYTES.
        """
        buffer = self._buffer
        if not buffer and data.endswith(b"\n\n"):
            if data.startswith(b"data: {") and data.find(b"\n") == len(data) - 2:
                return [(data, data[6:-2])]  # Nearly always: providers write one event of one line.
            return [(event, get_event_data(event)) for event in split_events(data)]
        # A blank line may have begun in the buffer, in its last three bytes. The rest has been searched: searching it
        # again would take quadratic time, and megabytes without a line end would stop the worker for seconds.
        start = max(0, len(buffer) - 3)
        buffer += data
        end = _find_last_event_end(buffer, start)
        if len(buffer) - end > MAX_EVENT_BYTES:
            raise UpstreamCut(f"The provider sent an event of more than {MAX_EVENT_BYTES} bytes.")
        if end == 0:
            return []
        events = bytes(buffer[:end])
        del buffer[:end]
        return [(event, get_event_data(event)) for event in split_events(events)]


def _find_last_event_end(data: bytearray, start: int) -> int:
    """Returns the index behind the last blank line of `data` from `start` on, or 0."""
    if data.find(b"\r", start) < 0:
        line_end = data.rfind(b"\n\n", start)
        return 0 if line_end < 0 else line_end + 2
    end = 0
    for match in _BLANK_LINE.finditer(data, start):
        end = match.end()
    return end


def split_events(events: bytes) -> list[bytes]:
    """Cuts whole events into single ones, each with the blank line that ends it."""
    if b"\r" not in events:
        if 0 < events.find(b"\n") == len(events) - 2:
            return [events]  # Nearly always: one line.
        return [event + b"\n\n" for event in events.split(b"\n\n") if event.strip(b"\n")]
    single, start = [], 0
    for match in _BLANK_LINE.finditer(events):
        single.append(events[start : match.end()])
        start = match.end()
    return [event for event in single if event.strip()]


def get_event_data(event: bytes) -> bytes | None:
    """Returns the data of one event, None where it has none (a comment, a ping)."""
    lines = [line[5:].removeprefix(b" ") for line in _LINE_END.split(event) if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None
