"""Requests as bytes, and heads of responses cut at every byte: a malformed head is refused."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from urllib3.exceptions import ProtocolError

from app.upstream.http1 import ResponseHead, receive_head, send_request
from tests.support.soak import examples


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a connection: ours and the provider's."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def head_of(data: bytes, timeout_s: float = 5.0) -> ResponseHead:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(data)
        theirs.shutdown(socket.SHUT_WR)
        return receive_head(ours, timeout_s)


RESPONSE = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nX-Empty:\r\nx-blank: \t a b \t \r\n"
    b"Transfer-Encoding: chunked\r\nvia: one\r\nVia: two\r\n\r\n5\r\nhello"
)


def check(head: ResponseHead) -> None:
    assert (head.status, head.is_chunked, head.content_length, head.keeps_alive) == (200, True, None, True)
    assert head.headers == {
        "content-type": "text/event-stream",
        "x-empty": "",
        "x-blank": "a b",
        "transfer-encoding": "chunked",
        "via": "one, two",
    }


def test_a_head_is_read_and_the_bytes_after_it_are_kept() -> None:
    head = head_of(RESPONSE)
    check(head)
    assert head.body_start == b"5\r\nhello"


def test_a_head_in_pieces_cut_at_any_byte_is_the_same(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    whole = RESPONSE[: RESPONSE.index(b"\r\n\r\n") + 4]
    for position in range(1, len(whole)):
        theirs.sendall(whole[:position])
        later = threading.Timer(0.001, theirs.sendall, [whole[position:]])
        later.start()
        check(receive_head(ours, 5))
        later.join()


@pytest.mark.parametrize(
    ("response", "status", "keeps_alive", "length", "chunked"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", 200, True, None, False),
        (b"HTTP/1.1 200\r\ncontent-length: 0\r\n\r\n", 200, True, 0, False),
        (b"HTTP/1.1 200 \xc3\xa9\r\nContent-Length: 12\r\n\r\n", 200, True, 12, False),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\n", 200, False, 5, False),
        (b"HTTP/1.0 200 OK\r\nconnection: Keep-Alive\r\ncontent-length: 5\r\n\r\n", 200, True, 5, False),
        (b"HTTP/1.1 200 OK\r\nConnection: Close\r\ncontent-length: 5\r\n\r\n", 200, False, 5, False),
        (b"HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\n", 204, True, 0, False),
        (b"HTTP/1.1 304 Not Modified\r\ntransfer-encoding: chunked\r\n\r\n", 304, True, 0, False),
        (b"HTTP/1.1 503 Busy\r\ntransfer-encoding: Chunked\r\n\r\n", 503, True, None, True),
        (b"HTTP/1.1 200 OK\ncontent-length: 5\n\n", 200, True, 5, False),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx", 200, True, 1, False),
        (b"HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n" * 3 + b"HTTP/1.1 429 No\r\n\r\n", 429, True, None, False),
    ],
)
def test_the_head_tells_the_length_of_the_body_and_whether_the_connection_is_kept(
    response: bytes, status: int, keeps_alive: bool, length: int | None, chunked: bool
) -> None:
    head = head_of(response)
    assert (head.status, head.keeps_alive, head.content_length, head.is_chunked) == (
        status,
        keeps_alive,
        length,
        chunked,
    )


@pytest.mark.parametrize(
    "response",
    [
        b"",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1  200 OK\r\n\r\n",
        b"ICY 200 OK\r\n\r\n",
        b"<html>\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"\x15\x03\x01\x00\x02\x02\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n: no name\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nbad name: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nname : x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n folded: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\na: b\r\n folded\r\n\r\n",
        b"HTTP/1.1 200 OK\r\na: b\x00c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\na: b\rc: d\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: " + b"9" * 30 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\na: " + b"x" * 70_000 + b"\r\n",
    ],
)
def test_a_malformed_head_is_refused(response: bytes) -> None:
    with pytest.raises(ProtocolError):
        head_of(response)


def test_thousands_of_blanks_are_part_of_a_value() -> None:
    # A pattern that backtracks over blanks takes half a minute for this.
    assert head_of(b"HTTP/1.1 200 OK\r\na: x" + b" " * 60_000 + b"y\r\n\r\n").headers == {"a": "x" + " " * 60_000 + "y"}
    with pytest.raises(ProtocolError):
        head_of(b"HTTP/1.1 200 OK\r\na: " + b" " * 60_000 + b"\x00\r\n\r\n")


@settings(max_examples=examples(100), deadline=None)
@given(
    st.lists(st.sampled_from([b"HTTP/1.1 ", b"200", b" OK", b"\r\n", b"\n", b"a: b", b":", b" ", b"\xff"]), max_size=9)
)
def test_arbitrary_heads_raise_nothing_else(pieces: list[bytes]) -> None:
    try:
        head_of(b"".join(pieces))
    except ProtocolError:
        return


def test_a_slow_head_ends_at_its_timeout(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    stop = threading.Event()

    def drip() -> None:
        while not stop.wait(0.01):
            theirs.sendall(b"x")

    dripping = threading.Thread(target=drip)
    dripping.start()
    with pytest.raises(TimeoutError):
        receive_head(ours, 0.1)
    stop.set()
    dripping.join()


@pytest.mark.parametrize("body", [None, b"", b"{}", b"x" * 500_000])
def test_a_request_is_written_whole(pair: tuple[socket.socket, socket.socket], body: bytes | None) -> None:
    ours, theirs = pair
    received = bytearray()

    def read() -> None:
        while data := theirs.recv(65_536):
            received.extend(data)

    reading = threading.Thread(target=read)
    reading.start()
    send_request(ours, "POST", "/v1/chat?a=b", {"Host": "h:1", "Content-Length": str(len(body or b""))}, body)
    ours.shutdown(socket.SHUT_WR)
    reading.join()
    head = b"POST /v1/chat?a=b HTTP/1.1\r\nHost: h:1\r\nContent-Length: %d\r\n\r\n" % len(body or b"")
    assert bytes(received) == head + (body or b"")


def test_a_head_of_too_many_headers_is_refused() -> None:
    assert (
        len(head_of(b"HTTP/1.1 200 OK\r\n" + b"".join(b"x-%d: 1\r\n" % n for n in range(200)) + b"\r\n").headers) == 200
    )
    with pytest.raises(ProtocolError, match="too many headers"):
        head_of(b"HTTP/1.1 200 OK\r\n" + b"x: 1\r\n" * 201 + b"\r\n")


def test_too_many_interim_responses_are_refused() -> None:
    assert head_of(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 10 + RESPONSE).status == 200
    with pytest.raises(ProtocolError, match="interim"):
        head_of(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 11 + RESPONSE)
