"""Server-Sent Events of a chat stream: cut into whole events, and each read for what the gateway must know of it.

Framing after the HTML standard's "server-sent events" section: lines end in LF, CRLF or CR, a blank line ends an
event, a line that begins with a colon is a comment. Event contents are those of OpenAI's chat completion chunks.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from app.errors import UpstreamCut

# The longest events are tool calls sent in one piece and logprobs; a line without an end beyond this is no stream.
MAX_EVENT_BYTES = 8 << 20

_BLANK_LINE = re.compile(rb"\r\n\r\n|\n\n|\r\r|\n\r\n|\r\n\n")
_LINE_END = re.compile(rb"\r\n|\n|\r")


class PromptDetails(msgspec.Struct, gc=False):
    """The part of `usage` that says how many prompt tokens came from the provider's cache."""

    cached_tokens: int | None = None


class CompletionDetails(msgspec.Struct, gc=False):
    """The part of `usage` that says how many completion tokens were reasoning."""

    reasoning_tokens: int | None = None


class Usage(msgspec.Struct, gc=False):
    """Tokens of one request as the provider counts them; `prompt_tokens` includes the cached ones."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: CompletionDetails | None = None


class Delta(msgspec.Struct, gc=False):
    """What a chunk adds to one alternative; only whether there is something is looked at."""

    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    tool_calls: Any = None
    function_call: Any = None

    def has_output(self) -> bool:
        """Tells whether the model produced something here, as opposed to a role or an empty last delta."""
        return bool(self.content or self.reasoning_content or self.reasoning or self.tool_calls or self.function_call)


class Choice(msgspec.Struct, gc=False):
    """One alternative's piece in a chunk."""

    index: int | None = None
    finish_reason: str | None = None
    delta: Delta | None = None


class Chunk(msgspec.Struct, gc=False):
    """What the gateway reads of a chat completion chunk.

    Reading an event into these records takes 2 µs, no more than the byte searches that could tell most events
    apart unread, and it finds every malformed one.
    """

    model: str | None = None
    choices: list[Choice] | None = None
    usage: Usage | None = None
    error: Any = None


# Lax, because a provider that writes 12.0 tokens or "12" has counted them all the same.
_decode_chunk = msgspec.json.Decoder(Chunk, strict=False).decode


class EventSplitter:
    """Cuts a stream of bytes at the ends of events, whatever the pieces it comes in."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = bytearray()

    @property
    def rest(self) -> bytes:
        """The beginning of an event whose end has not come yet."""
        return bytes(self._held)

    def feed(self, data: bytes) -> bytes:
        """Returns the whole events up to the last end in sight, `b""` if none ended; keeps the rest.

        Raises:
            UpstreamCut: an event is longer than MAX_EVENT_BYTES.
        """
        held = self._held
        if not held and data.endswith(b"\n\n"):
            return data  # Nearly always: providers write whole events.
        # All but the last byte of a blank line may be held already. To search everything that is held again would take
        # quadratic time, and a provider that sends megabytes without a line end would stop the worker for seconds.
        start = max(0, len(held) - 3)
        held += data
        end = _last_event_end(held, start)
        if len(held) - end > MAX_EVENT_BYTES:
            raise UpstreamCut(f"The provider sent an event of more than {MAX_EVENT_BYTES} bytes.")
        whole = bytes(held[:end])
        del held[:end]
        return whole


def _last_event_end(data: bytearray, start: int) -> int:
    """Returns the index behind the last blank line of `data` from `start` on, or 0."""
    if data.find(b"\r", start) < 0:
        line_end = data.rfind(b"\n\n", start)
        return 0 if line_end < 0 else line_end + 2
    end = 0
    for match in _BLANK_LINE.finditer(data, start):
        end = match.end()
    return end


def split_events(block: bytes) -> list[bytes]:
    """Cuts a block of whole events into single ones, each with the blank line that ends it."""
    if b"\r" not in block:
        if 0 < block.find(b"\n") == len(block) - 2:
            return [block]  # Nearly always: one line.
        return [event + b"\n\n" for event in block.split(b"\n\n") if event.strip(b"\n")]
    events, start = [], 0
    for match in _BLANK_LINE.finditer(block):
        events.append(block[start : match.end()])
        start = match.end()
    return [event for event in events if event.strip()]


def event_data(event: bytes) -> bytes | None:
    """Returns the data of one event, None where it has none (a comment, a ping)."""
    if event.startswith(b"data: {") and event.find(b"\n") == len(event) - 2:
        return event[6:-2]
    lines = [line[5:].removeprefix(b" ") for line in _LINE_END.split(event) if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None


def decode_chunk(data: bytes) -> Chunk:
    """Reads one chunk; raises UpstreamCut where it is no JSON object of a chunk's shape."""
    try:
        return _decode_chunk(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise UpstreamCut("The provider sent something that is not part of a chat stream.") from None
