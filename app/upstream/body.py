"""Reads the body of a provider's answer off its socket, as the bytes arrive and with a limit on each wait.

The readers of urllib3 and http.client cannot be asked twice: after one timeout Python's socket file refuses further
reads, and a timeout in the middle of a chunk header loses bytes. A stream must survive many timeouts, one for each
look at whether its client is still there.
"""

from __future__ import annotations

import zlib
from typing import Any

from urllib3.response import HTTPResponse

from app.errors import UpstreamCut
from app.upstream.connection_pool import Reply
from app.upstream.http1 import RECEIVE_BYTES, Head
from app.upstream.socket_reader import Reader, Take, make_reader
from app.upstream.transfer_coding import framing_of


class Body:
    """The body of one answer: `receive` it piece by piece, then `close` it.

    Closing gives the connection back to the pool when the body was read to its end, and ends it otherwise, which
    is what tells a provider to stop generating.

    Args:
        reply: the answer as `pool.py` gives it, or urllib3's, as test doubles of the transport do.
    """

    def __init__(self, reply: Reply | HTTPResponse) -> None:
        self._reply = reply
        self._reader: Reader | None = None  # Made when the head brought less than the whole body along.
        self._take: Take = bool  # Until `pump` is called.
        self._closed = False
        head = (
            reply.head if isinstance(reply, Reply) else Head(reply.status, dict(reply.headers), False, None, False, b"")
        )
        self._inflate = _decompressor(head.headers.get("content-encoding"))
        self._framing = framing_of(head)
        self._first = head.rest
        self._keeps_alive = head.keeps_alive
        self._error: UpstreamCut | None = None  # What is wrong behind the payload that was returned last.
        self.complete = self._framing.done

    def receive(self, timeout_s: float) -> bytes:
        """Returns the next bytes of the body as soon as any are there; `b""` once it is complete.

        Args:
            timeout_s: how long to wait, in seconds.

        Raises:
            TimeoutError: nothing arrived in time; it may be asked again.
            UpstreamCut: the connection ended or broke before the body was complete, or its coding is broken.
        """
        pieces: list[bytes] = []

        def take(payload: bytes) -> bool:
            pieces.append(payload)
            return False

        self.pump(timeout_s, take)
        return pieces[0] if pieces else b""

    def pump(self, timeout_s: float, take: Take) -> None:
        """Hands the body to `take`, piece by piece as it arrives, until that wants no more or the body is complete.

        Args:
            timeout_s: after which time to return in any case, in seconds.
            take: gets each piece, never an empty one, and returns whether it wants the next. It must not wait.

        Raises:
            TimeoutError: `take` still wants more after that time, however much has arrived; it may be called again.
            UpstreamCut: as for `receive`.
            Exception: whatever `take` raised.
        """
        self._take = take
        if self._error is not None:
            raise self._error
        if self._first:
            data, self._first = self._first, b""
            if not self._offer(data):
                return
        while not self.complete and self._read(timeout_s):
            pass

    def _read(self, timeout_s: float) -> bool:
        """Reads until `take` wants no more; returns whether to go on."""
        try:
            if not isinstance(self._reply, Reply):
                return self._offer(self._reply.read1(RECEIVE_BYTES, decode_content=False))
            if self._reader is None:
                self._reader = make_reader(self._reply.connection.sock)
            self._reader.pump(timeout_s, self._offer)
            return False
        except TimeoutError:
            raise
        except OSError as error:
            message = "The connection to the provider broke before its answer was complete. Retry."
            raise UpstreamCut(message) from error

    def _offer(self, data: bytes) -> bool:
        """Takes raw bytes in, and returns whether to go on."""
        if not data and not self._framing.end():
            raise UpstreamCut("The provider closed the connection before its answer was complete. Retry.")
        try:
            payload = self._framing.feed(data)
        except UpstreamCut as error:
            payload = self._salvaged(error)
        self.complete = self._framing.done
        if self._inflate is not None:
            payload = self._inflated(payload)
        if payload and not self._take(payload):
            return False
        if self._error is not None:
            raise self._error
        return not self.complete

    def _salvaged(self, error: UpstreamCut) -> bytes:
        """Returns what stood before `error`: events that came in one packet with it are told and counted first."""
        if not self._framing.salvaged:
            raise error
        self._error = error
        return self._framing.salvaged

    def _inflated(self, payload: bytes) -> bytes:
        try:
            inflated: bytes = self._inflate.decompress(payload)
            return inflated
        except zlib.error as error:
            raise UpstreamCut("The provider's answer is not valid in the coding that it names.") from error

    def close(self) -> None:
        """Ends the use of the connection; may be called more than once."""
        closed, self._closed = self._closed, True
        if closed:
            return
        self._take = bool  # Whose it was may hold this body.
        if self._reader is not None:
            self._reader.close()
        if not isinstance(self._reply, Reply):
            self._reply.close()
            return
        if not (self.complete and self._keeps_alive) or self._framing.surplus:
            self._reply.connection.close()
        self._reply.release()


def _decompressor(coding: str | None) -> Any:
    """Returns a decompressor, or None for a plain body; we ask for identity, but some proxies compress anyway."""
    if not coding or coding.lower() == "identity":
        return None
    if coding.lower() in {"gzip", "x-gzip", "deflate"}:
        # 32 more than the largest window makes zlib tell gzip from zlib by the header.
        return zlib.decompressobj(zlib.MAX_WBITS | 32)
    return _UnknownCoding(coding)


class _UnknownCoding:
    """Refuses a body when it is read and not before: the connection must be closed, and the status may say enough."""

    def __init__(self, coding: str) -> None:
        self._coding = coding

    def decompress(self, payload: bytes) -> bytes:
        raise UpstreamCut(f"The provider's answer is compressed as {self._coding[:20]!r}, which was not asked for.")
