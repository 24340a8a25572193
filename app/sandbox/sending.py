"""How an answer goes out: paced, counted, and given up as soon as the client has left."""

from collections.abc import Iterator

from app.sandbox.events import Event
from app.sandbox.state import Stats
from app.sandbox.web import Connection, ConnectionCut

# How long one wait of a stalled answer lasts; the answer waits again and again until the client leaves.
_STALL_S = 3600.0


class Body:
    """A WSGI response body made of events; the server calls close() however it ends.

    It is an iterator and no generator because close() of a generator that was never started runs nothing,
    and a client that left at once must be counted too.
    """

    def __init__(self, events: Iterator[Event], connection: Connection, stats: Stats, *, stream: bool) -> None:
        self._events = events
        self._connection = connection
        self._stats = stats
        self._stream = stream
        self._opened = False
        self._then = ""
        self._outcome = "aborted"
        if stream:
            stats.streams_started += 1

    def __iter__(self) -> "Body":
        return self

    def __next__(self) -> bytes:
        """Wait until the next event is due and return it; raises an OSError to break the connection off."""
        if self._stream and not self._opened:
            self._opened = True
            # An empty piece makes the server send the headers now and not with the first event.
            return b""
        self._do_what_follows()
        try:
            event = next(self._events)
        except StopIteration:
            self._outcome = "finished"
            raise
        self._connection.wait(event.wait_s)
        self._then = event.then
        self._stats.completion_tokens += event.tokens
        return event.payload

    def _do_what_follows(self) -> None:
        while self._then == "stall":
            self._connection.wait(_STALL_S)
        if self._then:
            self._outcome = "cut"
            if self._then == "reset":
                self._connection.reset_on_close()
            raise ConnectionCut

    def close(self) -> None:
        """Count how the stream ended."""
        if self._stream:
            name = "streams_" + self._outcome
            setattr(self._stats, name, getattr(self._stats, name) + 1)
            self._stream = False
