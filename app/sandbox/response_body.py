"""The body of a chat response: paced, counted, and ended as soon as the client disconnects."""

from collections.abc import Iterator

from app.sandbox.books import Booking
from app.sandbox.events import Event
from app.sandbox.state import Stats
from app.sandbox.web import Connection, ConnectionCut

# How long one wait of a stalled response lasts; it waits again and again until the client disconnects.
_STALL_S = 3600.0


class ResponseBody:
    """A WSGI response body made of events; the server calls close() in any case.

    It is an object and not a generator: close() of a generator that was never started runs nothing, and a client that
    disconnects at once must be counted too.
    """

    def __init__(
        self,
        events: Iterator[Event],
        connection: Connection,
        stats: Stats,
        *,
        stream: bool,
        booking: Booking | None = None,
    ) -> None:
        self._events = events
        self._connection = connection
        self._stats = stats
        self._stream = stream
        self._booking = booking
        self._tokens = 0
        self._headers_sent = False
        self._then = ""
        self._outcome = "aborted"
        if stream:
            stats.streams_started += 1

    def __iter__(self) -> "ResponseBody":
        return self

    def __next__(self) -> bytes:
        """Waits until the next event is due and returns it; raises an OSError to break off the connection."""
        if self._stream and not self._headers_sent:
            self._headers_sent = True
            # An empty piece makes the server send the headers now instead of with the first event.
            return b""
        self._break_off_if_due()
        try:
            event = next(self._events)
        except StopIteration:
            self._outcome = "finished"
            raise
        self._connection.wait(event.wait_s)
        self._then = event.then
        self._stats.completion_tokens += event.tokens
        self._tokens += event.tokens
        return event.payload

    def _break_off_if_due(self) -> None:
        while self._then == "stall":
            self._connection.wait(_STALL_S)
        if self._then:
            self._outcome = "cut"
            if self._then == "reset":
                self._connection.reset_on_close()
            raise ConnectionCut

    def close(self) -> None:
        """Counts the way the stream ended, and books the request."""
        if self._booking is not None:
            self._booking.close(self._tokens, is_finished=self._outcome == "finished")
            self._booking = None
        if self._stream:
            name = "streams_" + self._outcome
            setattr(self._stats, name, getattr(self._stats, name) + 1)
            self._stream = False
