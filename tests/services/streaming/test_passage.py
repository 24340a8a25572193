"""The fast path for events is equivalent to the slow path: the same bytes, summary and error, however a stream is cut.

So is the compiled fast path, if it is built.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import gevent
import pytest
from gevent import socket
from gunicorn.config import Config
from gunicorn.http import get_parser
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import GatewayError
from app.runtime import use_settings
from app.server.response import BufferedResponse
from app.services.endpoints import CHAT, StreamSummary
from app.services.streaming import ClientConnection, EventReader, Relay, passage
from app.speedups import find_speedups
from app.upstream import Body, Response, http1
from app.upstream.connection_pool import PooledResponse
from app.upstream.http1 import ResponseHead
from tests.services.inference.chat_core import settings_for
from tests.support.answers import DONE, chunk, error_event, event_bytes, usage_chunk, usage_of
from tests.support.soak import examples

# Fields of a summary that differ between runs.
TIMES = {"first_output_s", "last_output_s", "longest_gap_s", "last_arrival_s", "last_sent_s"}
SETTINGS = {
    way: settings_for("http://127.0.0.1:9", STREAM_HEARTBEAT="600", COMPILED_EVENTS=compiled)
    for way, compiled in {"python": "false", "compiled": "true"}.items()
}
IS_BUILT = find_speedups().speedups is not None
needs_build = pytest.mark.skipif(not IS_BUILT, reason="not built; `make speedups` builds it")
WAYS = ["python", pytest.param("compiled", marks=needs_build)]


@pytest.fixture(autouse=True, scope="module")
def sockets() -> Iterator[None]:
    """A set of sockets for this file."""
    use_settings(SETTINGS["python"])
    yield
    use_settings(None)


class LongWay(BufferedResponse):
    """A response that can only be written to by `push`, so that all events take the slow path."""

    def get_raw_socket(self) -> None:
        """Returns None."""


class Connection:
    """The parts of a urllib3 connection and its pool that a pooled response needs."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def close(self) -> None:
        """Does nothing; the test closes the socket."""

    def _put_conn(self, connection: Connection) -> None:
        """Does nothing; there is no next request."""


@dataclass
class Outcome:
    """The result of a stream: the body that the client got, whether it was whole, the summary, and the error.

    `taken` is the number of pieces that took the slow path.
    """

    body: bytes
    is_whole: bool
    summary: dict[str, Any]
    error: tuple[str, str] | None
    taken: int


def relay(
    pieces: list[bytes],
    kind: type[BufferedResponse],
    way: str = "python",
    *,
    show_usage: bool = True,
    slowly: bool = False,
) -> Outcome:
    """Relays a stream whose raw bytes arrive in these pieces, one by one, as the worker does."""
    # Each packet of a SEQPACKET socket is read separately.
    theirs, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    client, served = socket.socketpair()
    ends: list[tuple[StreamSummary, GatewayError | None]] = []
    with closing(theirs), closing(ours), closing(client), closing(served):
        if slowly:
            served.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
        client.sendall(b"GET / HTTP/1.1\r\nhost: gateway\r\n\r\n")
        config = Config()
        response = kind(next(get_parser(config, served, ("127.0.0.1", 1))), served, config)
        head = ResponseHead(200, {}, True, None, True, b"")
        connection: Any = Connection(ours)
        upstream = Response("Fireworks", PooledResponse(head, connection, connection), ())
        reader = EventReader(CHAT, "Fireworks", key_setting="KEY", show_usage=show_usage)
        deadline_s = time.monotonic() + 60
        stream = Relay(
            upstream,
            reader,
            client=ClientConnection(served),
            settings=SETTINGS[way],
            deadline_s=deadline_s,
            on_end=lambda summary, error: ends.append((summary, error)),
        )
        received = gevent.spawn(receive, client, slowly)
        sending = gevent.spawn(send, theirs, pieces)
        with patch.object(Body, "take", autospec=True, side_effect=Body.take) as take:
            is_whole = serve(stream, response)
        served.shutdown(socket.SHUT_WR)
        sending.kill()
        raw = received.get(timeout=60)
    ((summary, error),) = ends
    values = {name: getattr(summary, name) for name in StreamSummary.__slots__ if name not in TIMES}
    values |= {f"has {name}": getattr(summary, name) is not None for name in ("first_output_s", "last_output_s")}
    return Outcome(
        decode(raw.partition(b"\r\n\r\n")[2]),
        is_whole,
        values,
        None if error is None else (type(error).__name__, str(error)),
        take.call_count,
    )


def serve(stream: Relay, response: BufferedResponse) -> bool:
    """Serves a stream like the pipeline and the worker; returns whether the response ended properly."""
    try:
        stream.begin()
        response.start_response("200 OK", [("content-type", "text/event-stream")])
        stream.attach(response)
        for block in stream:
            response.write(block)
        response.close()
        return True
    except (GatewayError, BrokenPipeError):
        return False
    finally:
        stream.close()


def send(theirs: socket.socket, pieces: list[bytes]) -> None:
    for piece in pieces:
        theirs.sendall(piece)
    theirs.shutdown(socket.SHUT_WR)


def receive(client: socket.socket, slowly: bool) -> bytes:
    received = b""
    while data := client.recv(700 if slowly else 65_536):
        received += data
        if slowly:
            gevent.sleep(0.001)
    return received


def decode(coded: bytes) -> bytes:
    """Returns the payload of a possibly incomplete body in the chunked transfer coding."""
    payload = b""
    while coded:
        size, _, coded = coded.partition(b"\r\n")
        payload += coded[: int(size, 16)]
        coded = coded[int(size, 16) + 2 :]
    return payload


def compare(pieces: list[bytes], *, show_usage: bool = True) -> Outcome:
    """Relays a stream on all paths, asserts that the outcomes are equal, and returns that of the fast paths."""
    long = relay(pieces, LongWay, show_usage=show_usage)
    short = relay(pieces, BufferedResponse, show_usage=show_usage)
    assert (short.body, short.is_whole) == (long.body, long.is_whole)
    assert (short.summary, short.error) == (long.summary, long.error)
    if IS_BUILT:
        assert relay(pieces, BufferedResponse, "compiled", show_usage=show_usage) == short
    return short


def coded(event: bytes, size: str = "%x") -> bytes:
    return (size % len(event)).encode() + b"\r\n" + event + b"\r\n"


usage = usage_of(5, 2)
ODD = [
    event_bytes(chunk("a", usage=usage)),
    event_bytes(usage_chunk(usage)),
    event_bytes({**usage_chunk(), "usage": {"prompt_tokens": -1}}),
    event_bytes(chunk(finish="stop")),
    event_bytes({**chunk("a"), "choices": [chunk("a")["choices"][0], {"index": 1, "delta": {"content": "b"}}]}),
    event_bytes(error_event()),
    event_bytes({**chunk("a"), "choices": [{**chunk("a")["choices"][0], "finish_reason": "error"}]}),
    DONE,
    b": comment\n\n",
    b": a comment with Bearer fw_REPLACE_ME\n\n",
    b"data: null\n\n",
    b"data: {}\n\n",
    b'data: {"choices": [}\n\n',
    event_bytes(chunk("a")).replace(b", ", b",\r", 1),
    b'data: {"choices": [{"index": 0, "delta": {"content": "\\ud83d"}}]}\n\n',
    b'data: {"choices": [{"index": 0, "delta": {"content": NaN}}]}\n\n',
    b'data: {"choices": [],\ndata: "usage": null}\n\n',
    b'data: {"choices": [],\r"usage": null}\n\n',
    b'event: message\ndata: {"choices": [{"index": 0, "delta": {"content": "x"}}]}\n\n',
    b"event: ping\ndata: {}\n\n",
    b"id: 1\n\n",
    b"\n\n",
    b"data: {" + b" " * 9_000 + b'"choices": []}\n\n',
    event_bytes(chunk("x" * 9_000)),
    event_bytes(chunk("a"), b"\r\n"),
    b"\xef\xbb\xbf" + event_bytes(chunk("a")),
    event_bytes(chunk("a"))[:-1],
    event_bytes(chunk("a"))[10:],
    b"<html>\n\n",
    b'data: {\n"choices": []}\n\n',
    b'data: {"choices": []}\n\ndata: {"choices": []}\n\n',
]
usual = st.builds(lambda text: event_bytes(chunk(text)), st.text(max_size=20))
odd = st.sampled_from(ODD)
SIZES = ["%x", "%X", "%04x", "%x;name=value", " %x", "0x%x", "+%x", "%09x"]
sizes = st.sampled_from(["%x"] * 8 + SIZES)
chunks = st.lists(st.tuples(st.one_of(usual, usual, usual, odd), sizes), min_size=1, max_size=12)
ENDS = [coded(event_bytes(chunk(finish="stop"))), coded(event_bytes(usage_chunk()) + DONE), b"0\r\n\r\n"]


@given(chunks, st.integers(0, 3), st.lists(st.integers(1, 400), max_size=6), st.booleans())
@settings(max_examples=examples(150), deadline=None)
def test_both_ways_do_the_same(drawn: Any, ends: int, cuts: list[int], show_usage: bool) -> None:
    pieces = [coded(event_bytes(chunk("first"))), *(coded(event, size) for event, size in drawn), *ENDS[:ends]]
    for cut in cuts:  # Some pieces are cut in two, others go together with the next one.
        place = cut % len(pieces)
        if cut % 3 and 0 < cut < len(pieces[place]):
            pieces[place : place + 1] = [pieces[place][:cut], pieces[place][cut:]]
        else:
            pieces[place : place + 2] = [b"".join(pieces[place : place + 2])]
    compare(pieces, show_usage=show_usage)


@needs_build
def test_the_compiled_way_has_the_numbers_of_pythons() -> None:
    speedups = find_speedups().speedups
    assert speedups is not None
    assert (speedups.LONGEST, speedups.RECEIVE_BYTES) == (passage._LONGEST, http1.RECEIVE_BYTES)


FIRST, NEXT = (coded(event_bytes(chunk(text))) for text in ("first", "next"))


@pytest.mark.parametrize("show_usage", [True, False])
def test_what_is_unusual_does_the_same_between_usual_events(show_usage: bool) -> None:
    for event in ODD:
        compare([FIRST, NEXT, coded(event), NEXT, NEXT, *ENDS], show_usage=show_usage)
        compare([FIRST, NEXT, coded(event[:9]), coded(event[9:]), NEXT, NEXT, *ENDS], show_usage=show_usage)
    for size in SIZES:
        compare([FIRST, NEXT, coded(event_bytes(chunk("a")), size), NEXT, *ENDS], show_usage=show_usage)
    for wrong in (-300, -1, 1, 2, 300):
        event = event_bytes(chunk("a" * 300))
        compare([FIRST, NEXT, b"%x\r\n%b\r\n" % (len(event) + wrong, event), NEXT, NEXT, *ENDS])
    # A piece that looks like a chunk but is a chunk's payload.
    compare([FIRST, NEXT, b"%x\r\n%b" % (2 * len(event) + len(NEXT), event), NEXT, event + b"\r\n", NEXT, *ENDS])


def test_a_cut_anywhere_does_the_same() -> None:
    stream = FIRST + NEXT + NEXT
    for cut in [*range(len(FIRST), len(FIRST) + 12), *range(len(FIRST + NEXT) - 8, len(FIRST + NEXT) + 12)]:
        compare([stream[:cut], stream[cut:], NEXT, NEXT, *ENDS])
        compare([FIRST, stream[len(FIRST) : cut], stream[cut:] + NEXT, NEXT, *ENDS])


def test_usual_events_take_the_fast_path() -> None:
    texts = [event_bytes(chunk(str(number))) for number in range(20)]
    outcome = compare([*map(coded, texts), *ENDS])
    assert outcome.body == b"".join(texts) + event_bytes(chunk(finish="stop")) + event_bytes(usage_chunk()) + DONE
    # The first piece is awaited before the response begins, the second one shows the state of the stream, and the last
    # two are its end.
    assert outcome.taken == 4 and outcome.error is None and outcome.is_whole


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", [BufferedResponse, LongWay])
def test_a_client_that_reads_slowly_gets_everything(kind: type[BufferedResponse], way: str) -> None:
    texts = [event_bytes(chunk(f"{number} " + "x" * 400)) for number in range(60)]
    outcome = relay([*map(coded, texts), *ENDS], kind, way, slowly=True)
    assert outcome.body == b"".join(texts) + event_bytes(chunk(finish="stop")) + event_bytes(usage_chunk()) + DONE
    assert outcome.error is None and outcome.summary["bytes_sent"] == len(outcome.body)
    assert (outcome.taken < 20) is (kind is BufferedResponse)
