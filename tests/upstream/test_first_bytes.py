"""The wait for a response on a socket of gevent: data that arrives, timeouts, and the end of a connection."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent import socket, ssl

from app.upstream.first_bytes import make_receive
from app.upstream.http1 import NoResponse, receive_head

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
LONG = bytes(range(250)) * 300


@pytest.fixture(params=["plain", "TLS"])
def connection(request: pytest.FixtureRequest, certificate: tuple[Path, Path]) -> Iterator[tuple[Any, Any]]:
    """The two ends of a connection; over TLS, each sent piece is a separate record."""
    ours, theirs = socket.socketpair()
    if request.param == "TLS":
        accepting, calling = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        accepting.load_cert_chain(*certificate)
        calling.load_verify_locations(certificate[0])
        calling.check_hostname = False
        server = gevent.spawn(accepting.wrap_socket, theirs, server_side=True)
        ours = calling.wrap_socket(ours)
        theirs = server.get()
    with ours, theirs:
        yield ours, theirs


def test_waits_on_a_connection_follow_each_other_whatever_became_of_the_one_before(connection: tuple[Any, Any]) -> None:
    ours, theirs = connection
    receive = make_receive(ours)
    gevent.spawn_later(0.01, theirs.sendall, b"later")
    assert receive(5) == b"later"
    with pytest.raises(TimeoutError):
        receive(0.01)
    theirs.sendall(b"at once")
    assert receive(0.01) == b"at once"  # Reuses the timer that has expired before.
    for position in range(1, len(HEAD) - 2):
        theirs.sendall(HEAD[:position])
        gevent.spawn_later(0.001, theirs.sendall, HEAD[position:])
        head = receive_head(ours, 5, receive)
        assert (head.status, head.content_length) == (200, 2)
        while len(head.body_start) < 2:  # The rest of the body arrives in another packet.
            head.body_start += receive(5)
    theirs.sendall(HEAD[:20])
    with pytest.raises(TimeoutError):
        receive_head(ours, 0.02, receive)
    theirs.sendall(LONG)  # Several TLS records, of which each read returns one.
    received = b""
    while len(received) < len(LONG):
        received += receive(5)
    assert received == LONG


def test_a_wait_can_be_cancelled_and_ends_with_the_connection(connection: tuple[Any, Any]) -> None:
    ours, theirs = connection
    receive = make_receive(ours)
    waiting = gevent.spawn(receive, 5)
    gevent.sleep(0)
    waiting.kill(LookupError("cancelled"))
    assert isinstance(waiting.exception, LookupError)
    theirs.sendall(b"next")
    assert receive(5) == b"next"  # The cancelled wait has left nothing behind.
    gevent.spawn_later(0.01, theirs.close)
    with pytest.raises(NoResponse):
        receive_head(ours, 5, receive)
