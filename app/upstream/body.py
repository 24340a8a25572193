"""The body of a response, received from its socket as the bytes arrive and with a limit on each wait.

The readers of urllib3 and http.client cannot be used for this: after one timeout Python's socket file refuses further
reads, and a timeout in the middle of a chunk header loses bytes. A stream needs many timeouts, one for each check
whether the client is still connected.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

from app.errors import UpstreamCut
from app.upstream.connection_pool import PooledResponse
from app.upstream.socket_reader import OnData, SocketReader, ignore_data, make_reader
from app.upstream.transfer_coding import make_decoder

# A callback that gets the next piece of a body, and returns whether it wants more. It must not wait for anything.
OnPayload = Callable[[bytes], bool]


class Body:
    """The body of one response: receive it, then close it.

    Closing a complete body gives the connection back to the pool. Closing an incomplete one closes the connection,
    which tells the provider to stop generating. A closed body never reads the connection again, which may serve another
    request by then; it can still return bytes that were put back.

    Args:
        response: the response; its head has been received.

    Attributes:
        complete: whether the end of the body has been received.
    """

    def __init__(self, response: PooledResponse) -> None:
        head = response.head
        self._response = response
        self._reader: SocketReader | None = None  # Created if the body did not arrive together with the head.
        self._on_payload: OnPayload = ignore_data
        self._is_closed = False
        self._decompressor = _make_decompressor(head.headers.get("content-encoding"))
        self._decoder = make_decoder(head)
        self._start = head.body_start
        self._put_back = b""
        self.complete = self._decoder.complete

    def take_arrived(self) -> bytes | None:
        """Returns the whole body if all of it arrived with the head, as for most short ones; else None.

        If only a part arrived, `receive` returns it first. Never waiting here saves a request 6 µs.
        """
        if self._put_back or self._decompressor is not None:
            return None
        payload, self._start = self._decoder.decode(self._start), b""
        self.complete = self._decoder.complete
        if self.complete and self._decoder.error is None:
            return payload
        self._put_back = payload
        return None

    def receive(self, timeout_s: float) -> bytes:
        """Returns the next piece of the body as soon as there is one; `b""` once the body is complete.

        Args:
            timeout_s: how long to wait, in seconds.

        Raises:
            TimeoutError: nothing arrived in time. The next call continues where this one stopped.
            UpstreamCut: the connection ended or broke before the body was complete, the body is not valid, or it was
                closed before its end.
        """
        pieces: list[bytes] = []

        def on_payload(payload: bytes) -> bool:
            pieces.append(payload)
            return False

        self.receive_each(timeout_s, on_payload)
        return pieces[0] if pieces else b""

    @property
    def is_between_chunks(self) -> bool:
        """Whether the next byte begins a chunk whose bytes are the plain payload."""
        return self._decompressor is None and self._decoder.is_between_chunks

    def receive_each(self, timeout_s: float, on_payload: OnPayload, on_data: OnData | None = None) -> None:
        """Calls `on_payload` with each piece as it arrives, until it wants no more or the body is complete.

        Args:
            timeout_s: the latest time to stop, in seconds from now.
            on_payload: gets each piece, which is never empty.
            on_data: gets the bytes of the socket as they arrive, in place of the body; it passes those for the body to
                `take`, and returns whether more is wanted.

        Raises:
            TimeoutError: the time is over and `on_payload` still wants more, even if data has arrived. The next call
                goes on where this one stopped.
            UpstreamCut: as for `receive`.
            Exception: whatever `on_payload` raised.
        """
        self._on_payload = on_payload
        if self._put_back:
            payload, self._put_back = self._put_back, b""
            if not on_payload(payload):
                return
        if self._decoder.error is not None:
            raise self._decoder.error
        if self._start:
            data, self._start = self._start, b""
            if not self.take(data):
                return
        if not self.complete:
            self._receive_from_socket(timeout_s, on_data or self.take)

    def peek(self, timeout_s: float) -> bytes:
        """Returns the next piece without consuming it; `b""` if none arrives in time or ever."""
        try:
            self._put_back = self.receive(timeout_s)
        except TimeoutError:
            return b""
        except UpstreamCut as error:
            self._decoder.error = error  # The next attempt to receive raises it too.
        return self._put_back

    def put_back(self, payload: bytes) -> None:
        """Makes `payload` the next piece to be received, before the rest of the body."""
        self._put_back = payload

    def _receive_from_socket(self, timeout_s: float, on_data: OnData) -> None:
        if self._is_closed:
            raise UpstreamCut("The gateway stopped reading the response before its end. Retry.")
        if self._reader is None:
            self._reader = make_reader(self._response.connection.sock)
        try:
            self._reader.receive_each(timeout_s, on_data)
        except TimeoutError:
            raise
        except OSError as error:
            message = "The connection to the provider broke before the response was complete. Retry."
            raise UpstreamCut(message) from error

    def take(self, data: bytes) -> bool:
        """Decodes bytes from the socket and passes the payload to `on_payload`; returns whether more is wanted.

        Raises:
            UpstreamCut, Exception: as `receive_each`.
        """
        if not data and not self._decoder.finish():
            raise UpstreamCut("The provider closed the connection before the response was complete. Retry.")
        payload = self._decoder.decode(data)
        self.complete = self._decoder.complete
        if self._decompressor is not None:
            payload = self._decompress(payload)
        if payload and not self._on_payload(payload):
            return False
        # An error in the coding is raised after the payload before it, whose events count and reach the client.
        if self._decoder.error is not None:
            raise self._decoder.error
        return not self.complete

    def _decompress(self, payload: bytes) -> bytes:
        try:
            decompressed: bytes = self._decompressor.decompress(payload)
            return decompressed
        except zlib.error as error:
            message = "The provider's response does not match the content encoding that it declares. Retry."
            raise UpstreamCut(message) from error

    def close(self) -> None:
        """Stops reading and gives the connection back or closes it; may be called more than once."""
        if self._is_closed:
            return
        self._is_closed = True
        self._start = b""
        self._on_payload = ignore_data  # The callback may refer to this body; this breaks the reference cycle.
        if self._reader is not None:
            self._reader.close()
        keeps_alive = self._response.head.keeps_alive
        self._response.release(reusable=self.complete and keeps_alive and not self._decoder.has_excess)


def _make_decompressor(coding: str | None) -> Any:
    """Returns a decompressor, or None for a plain body. Some proxies compress although the gateway asks for none."""
    if not coding or coding.lower() == "identity":
        return None
    if coding.lower() in {"gzip", "x-gzip", "deflate"}:
        # 32 above the largest window size makes zlib detect gzip or zlib by the header.
        return zlib.decompressobj(zlib.MAX_WBITS | 32)
    return _UnknownCoding(coding)


class _UnknownCoding:
    """Raises only when the body is received, because for an error response the status may be enough."""

    def __init__(self, coding: str) -> None:
        self._coding = coding

    def decompress(self, payload: bytes) -> bytes:
        coding = repr(self._coding[:20])
        raise UpstreamCut(f"The provider compressed its response as {coding}, unasked. Report it to the operator.")
