"""A disconnect of the client is detected without reading its data and without a wait."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest

from app.services.streaming.client_connection import ClientConnection
from tests.support.waiting import wait_until

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Both ends of a TCP connection: ours and the client's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    with ours, theirs:
        yield ours, theirs


def test_a_waiting_client_is_connected(pair: Pair) -> None:
    assert not ClientConnection(pair[0]).is_gone()


def test_a_client_that_sends_more_is_connected_and_loses_nothing(pair: Pair) -> None:
    ours, theirs = pair
    theirs.sendall(b"GET / HTTP/1.1\r\n")
    client = ClientConnection(ours)
    for _ in range(3):
        assert not client.is_gone()
    assert ours.recv(100) == b"GET / HTTP/1.1\r\n"


@pytest.mark.parametrize("way", ["close", "reset", "half"])
def test_a_client_that_closed_is_gone(pair: Pair, way: str) -> None:
    ours, theirs = pair
    if way == "half":
        theirs.shutdown(socket.SHUT_WR)
    else:
        if way == "reset":
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        theirs.close()
    client = ClientConnection(ours)
    wait_until(client.is_gone)
    assert way == "reset" or client.is_gone()


def test_a_connection_that_is_closed_on_our_side_is_gone(pair: Pair) -> None:
    pair[0].close()
    assert ClientConnection(pair[0]).is_gone()


@pytest.mark.parametrize("timeout_s", [None, 5.0, 0.0])
def test_the_check_does_not_change_the_timeout(pair: Pair, timeout_s: float | None) -> None:
    pair[0].settimeout(timeout_s)
    ClientConnection(pair[0]).is_gone()
    assert pair[0].gettimeout() == timeout_s


def test_without_a_socket_the_client_never_disconnects() -> None:
    client = ClientConnection(None)
    assert not client.is_gone()
