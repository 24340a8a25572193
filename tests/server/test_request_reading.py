"""A large body is read exactly, however it arrives and whatever follows it on the connection."""

from __future__ import annotations

import gc
import socket
import threading
import weakref
from typing import Any

import pytest
from gunicorn.http.body import Body, ChunkedReader, LengthReader

from app.server.request_reading import PacedUnreader, read_directly

BODY = bytes(range(256)) * 1_200
FOLLOWING = b"GET /health HTTP/1.1\r\n\r\n"


@pytest.mark.parametrize("already_read", [0, 100, len(BODY) - 1, len(BODY), len(BODY) + 5])
@pytest.mark.parametrize("piece_bytes", [7_919, 100_000, len(BODY) + len(FOLLOWING)])
def test_a_large_body_ends_where_the_next_request_begins(already_read: int, piece_bytes: int) -> None:
    """`already_read` bytes came with the head of the request."""
    sent = BODY + FOLLOWING
    ours, theirs = socket.socketpair()
    with ours, theirs:
        unreader = PacedUnreader(ours)
        unreader.unread(sent[:already_read])
        pieces = [sent[at : at + piece_bytes] for at in range(already_read, len(sent), piece_bytes)]
        sender = threading.Thread(target=lambda: [theirs.sendall(piece) for piece in pieces])
        sender.start()
        reader = LengthReader(unreader, len(BODY))
        assert read_directly(Body(reader), len(BODY)) == BODY and reader.length == 0
        sender.join()
        theirs.shutdown(socket.SHUT_WR)
        rest = unreader.take_buffered()
        while piece := unreader.chunk():
            rest += piece
        assert rest == FOLLOWING


def test_a_large_body_that_ends_early_is_returned_as_far_as_it_came() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(BODY[:70_000])
        theirs.close()
        assert read_directly(Body(LengthReader(PacedUnreader(ours), len(BODY))), len(BODY)) == BODY[:70_000]


class Request:
    """The part of gunicorn's request that its body uses."""

    body: Any


def test_a_chunked_body_that_breaks_off_is_freed_at_once() -> None:
    """The body is part of a cycle: its request refers to it, and gunicorn's reader of chunks to the request."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"1000\r\n" + BODY[:4_000])
        theirs.close()
        unreader = PacedUnreader(ours)
        request = Request()
        request.body = Body(ChunkedReader(request, unreader))
        unreader.begin_body(request.body.reader, 5.0, 5.0)
        freed = weakref.ref(request.body)
        gc.disable()
        try:
            with pytest.raises(Exception, match="."):
                request.body.read()
            del request
            assert freed() is None
        finally:
            gc.enable()
