"""The faults of a provider: its script, and the required record and result for the client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tests.faults.scripts import answer, forever, in_turn, late_reset, made_late, raw, stream
from tests.support.answers import (
    DONE,
    Event,
    chat_answer,
    chunk,
    error_event,
    event_bytes,
    head,
    redirect,
    usage_chunk,
    usage_of,
    whole_stream,
)
from tests.support.scripts import Script, close, drip, hang, pause, reset, send

# The settings of the gateway. The limits differ, so that the time shows which one ended a request, and the total limit
# is longer than any other fault takes.
SETTINGS = {
    "UPSTREAM_CONNECT_TIMEOUT": "0.5",
    "UPSTREAM_FIRST_BYTE_TIMEOUT": "4",
    "UPSTREAM_IDLE_TIMEOUT": "4",
    "UPSTREAM_TOTAL_TIMEOUT": "8",
    "UPSTREAM_RETRIES": "1",
    "STREAM_HEARTBEAT": "0.6",
}

# The limit that ends a request → the least seconds until then; "at once" means without waiting.
Limit = Literal["at once", "first byte", "idle", "total", "connect", "its own pace"]
LIMITS_S: dict[Limit, float] = {
    "at once": 0,
    "its own pace": 0,
    "connect": 2 * 0.5,
    "first byte": 4,
    "idle": 4,
    "total": 8,
}


@dataclass(frozen=True)
class Fault:
    """One fault of a provider, and the required result.

    Attributes:
        name: its name in the table.
        script: the provider's script.
        outcome, code, usage: `outcome`, `error_code` and `usage_source` of the row.
        failed: the number of failed attempts in the row.
        limit: the limit that ends it.
        is_stream: whether the client asks for a stream.
        gateway: the provider's name when it is not the scripted one that plays Fireworks.
        is_costly: whether only the bare client meets it, as with any other `gateway`, to spare that one's breakers.
    """

    name: str
    script: Script
    outcome: str = "upstream_cut"
    code: str | None = "upstream_cut"
    usage: str = "none"
    failed: int = 0
    limit: Limit = "at once"
    is_stream: bool = True
    gateway: str | None = None
    is_costly: bool = False


def _timeout(name: str, script: Script, usage: str = "none", limit: Limit = "idle", **more: bool) -> Fault:
    return Fault(name, script, "upstream_timeout", f"upstream_{limit}_timeout", usage, limit=limit, **more)


def _unanswered(name: str, script: Script, code: str | None = "upstream_connection_lost") -> Fault:
    return Fault(name, script, "upstream_error", code, failed=1)


def _fine(name: str, script: Script, usage: str = "provider", limit: Limit = "at once", failed: int = 0) -> Fault:
    return Fault(name, script, "ok", None, usage, limit=limit, failed=failed)


ONE, TWO, THREE = chunk("one"), chunk("two"), chunk("three")
FINISH = [chunk("one"), chunk(finish="stop"), usage_chunk()]
HALF_EVENT = event_bytes(chunk("half of it"))[:60]
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
_BUSY = {"error": {"message": "busy"}}

BEFORE_AN_ANSWER = [
    Fault(
        "refuses connections",
        [],
        "upstream_error",
        "upstream_unreachable",
        failed=2,
        limit="its own pace",
        gateway="deepinfra",
    ),
    Fault(
        "never accepts a connection",
        [],
        "upstream_timeout",
        "upstream_connect_timeout",
        failed=2,
        limit="connect",
        gateway="chutes",
    ),
    Fault(
        "reads the request and is silent",
        [hang()],
        "upstream_timeout",
        "upstream_first_byte_timeout",
        failed=1,
        limit="first byte",
    ),
    _unanswered("reads the request and resets", [reset()]),
    _unanswered("reads the request and closes", [close()]),
    _unanswered("sends half a head and closes", raw(_HEAD[:30])),
    _unanswered("sends half a head and resets", [send(_HEAD[:30]), *late_reset()]),
    Fault(
        "sends half a head and is silent",
        [send(_HEAD[:30]), hang()],
        "upstream_timeout",
        "upstream_first_byte_timeout",
        failed=1,
        limit="first byte",
    ),
    Fault(
        "drips its head, a byte every 0.3 s",
        [drip(_HEAD * 9, 1, 0.3)],
        "upstream_timeout",
        "upstream_first_byte_timeout",
        failed=1,
        limit="first byte",
    ),
    _unanswered("answers in no HTTP", raw(b"\x16\x03\x01 hello\r\n\r\n")),
    _unanswered("redirects", redirect("/elsewhere"), None),
    Fault("answers 503 again and again", answer(_BUSY, 503), "upstream_error", None, failed=2, limit="its own pace"),
    _fine("answers 503 once", in_turn(answer(_BUSY, 503), stream(whole_stream("one"))), failed=1, limit="its own pace"),
    Fault(
        "answers 429, retry-after 60",
        answer(_BUSY, 429, retry_after="60"),
        "upstream_error",
        "rate_limit_exceeded",
        failed=1,
    ),
]


def _broken_at(where: str, events: list[Event], usage: str) -> list[Fault]:
    """Returns the four ways in which a stream can stop at one point."""
    return [
        Fault(f"closes {where}", stream(events, ending="fin"), usage=usage),
        Fault(f"resets {where}", [*stream(events, ending="hang")[:-1], *late_reset()], usage=usage),
        Fault(f"ends the answer properly {where}", stream(events), usage=usage),
        _timeout(f"falls silent {where}", stream(events, ending="hang"), usage),
    ]


def _in_a_chunk(event: Event) -> bytes:
    assert not callable(event)
    content = event_bytes(event)
    return f"{len(content):x}\r\n".encode() + content + b"\r\n"


IN_A_STREAM = [
    *_broken_at("after the headers", [], "none"),
    *_broken_at("inside the first event", [HALF_EVENT], "none"),
    *_broken_at("after the first event", [ONE], "counted"),
    *_broken_at("after the third event", [ONE, TWO, THREE], "counted"),
    *_broken_at("inside the fourth event", [ONE, TWO, THREE, HALF_EVENT], "counted"),
    *_broken_at("before `[DONE]`", [*FINISH], "provider"),
    Fault("closes inside a chunk", stream([ONE], ending="half chunk"), usage="counted"),
    Fault("breaks the chunked coding", stream([ONE], ending="bad chunk"), usage="counted"),
    _timeout(
        "drips comments for ever", [*stream([], ending="hang")[:-1], forever(b"2\r\n:\n\r\n", 0.3)], limit="total"
    ),
    _timeout(
        "drips one event for ever",
        [*stream([ONE], ending="hang")[:-1], forever(b"1\r\nx\r\n", 0.3)],
        "counted",
        "total",
    ),
    _timeout(
        "sends events for ever",
        [*stream([ONE], ending="hang")[:-1], forever(_in_a_chunk(TWO), 0.3)],
        "counted",
        "total",
    ),
]

WRONG_CONTENT = [
    Fault("sends an error event", stream([ONE, error_event(), TWO, DONE]), "upstream_error", None, "counted"),
    Fault("says `[DONE]` before a finish reason", stream([ONE, DONE]), usage="counted"),
    Fault(
        "leaves one of two choices unfinished",
        stream([ONE, chunk("two", index=1), chunk(finish="stop"), DONE]),
        usage="counted",
    ),
    Fault("sends an event that is no JSON", stream([ONE, b"data: {not json\n\n", DONE]), usage="counted"),
    Fault("sends an event that is no text", stream([ONE, b'data: {"model": "\xff"}\n\n', DONE]), usage="counted"),
    Fault("sends an HTML page with status 200", answer(b"<html>Bad Gateway</html>", content_type="text/html")),
    Fault(
        "sends 9 MB without an end of line",
        made_late(lambda: stream([ONE, b"data: " + b"x" * 9_000_000])),
        usage="counted",
        is_costly=True,
    ),
    Fault("announces gzip and sends none", stream([b"this is plain"], headers={"content-encoding": "gzip"})),
    Fault("compresses with brotli", stream([*FINISH, DONE], headers={"content-encoding": "br"}), failed=0),
]

_GLOBE = [chunk("Grüße, "), chunk("世界 "), chunk("🌍"), chunk(finish="stop"), usage_chunk(), DONE]
_SLOW: list[Event] = [part for word in ("one", "two", "three", "four") for part in (chunk(word), pause(0.7))]

ODD_BUT_RIGHT = [
    _fine("cuts its stream at every byte, in characters too", stream(_GLOBE, cut_at=1)),
    _fine("cuts its stream at every seventh byte", stream(_GLOBE, cut_at=7)),
    _fine("ends lines with CRLF, cut at every third byte", stream(_GLOBE, newline=b"\r\n", cut_at=3)),
    _fine("ends lines with CR", stream(_GLOBE, newline=b"\r")),
    _fine("sends comments between events", stream([b": hi\n\n", ONE, b":\n\n", *FINISH[1:], b": bye\n\n", DONE])),
    _fine(
        "sends `event:`, `id:`, `retry:` and empty frames",
        stream([b"retry: 10\n\n", b"event: ping\n\n", b"id: 7\n\n", b"data:\n\n", b"data: null\n\n", *FINISH, DONE]),
    ),
    _fine("compresses with gzip", stream(_GLOBE, compress=True)),
    _fine("compresses with gzip, cut at every fifth byte", stream(_GLOBE, compress=True, cut_at=5)),
    _fine("sends an event of 100,000 bytes", stream([chunk("x" * 100_000), *FINISH[1:], DONE], cut_at=9_999)),
    _fine("pauses 0.7 s between events", stream([*_SLOW, *FINISH[1:], DONE]), limit="its own pace"),
    _fine("closes after `[DONE]`", stream([*FINISH, DONE], ending="fin")),
    _fine("resets after `[DONE]`", [*stream([*FINISH, DONE], ending="hang")[:-1], *late_reset()]),
    _fine("is silent after `[DONE]`", stream([*FINISH, DONE], ending="hang")),
    _fine("goes on after `[DONE]`", stream([*FINISH, DONE, chunk("never"), DONE])),
    _fine("announces no length and closes", raw(_HEAD + b"\r\n" + b"".join(map(event_bytes, [*FINISH, DONE])))),
    _fine("sends no usage", stream([ONE, chunk(finish="stop"), DONE]), "counted"),
]


def _whole(name: str, script: Script, code: str | None = "upstream_cut", outcome: str = "upstream_cut") -> Fault:
    return Fault(name, script, outcome, code, is_stream=False)


_LONG = [send(head(200, {"content-type": "application/json", "content-length": "999"}) + b'{"choices": [')]
UNSTREAMED = [
    _whole("closes in the middle of its body", [*_LONG, close()]),
    _whole("resets in the middle of its body", [*_LONG, *late_reset()]),
    _timeout("falls silent in the middle of its body", [*_LONG, hang()], is_stream=False),
    _timeout("drips its body", [*_LONG, drip(b" " * 900, 1, 0.3)], limit="total", is_stream=False),
    _whole("answers with something that is no JSON", answer(b"<html>"), None, "upstream_error"),
    _whole("answers with JSON that is no completion", answer([1, 2]), None, "upstream_error"),
    Fault("answers well", chat_answer("Hello", usage=usage_of(11, 3)), "ok", None, "provider", is_stream=False),
]

SECTIONS: dict[str, list[Fault]] = {
    "The provider, before its answer": BEFORE_AN_ANSWER,
    "The provider, in a stream": IN_A_STREAM,
    "The provider sends what is no chat stream": WRONG_CONTENT,
    "The provider is odd but right": ODD_BUT_RIGHT,
    "The provider, not streaming": UNSTREAMED,
}
