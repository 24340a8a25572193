"""A chat stream on its way from the provider to the client, and what it saw on the way.

Events go from one socket to the other in gevent's loop, the moment they arrive. The request's greenlet sleeps
meanwhile; it wakes up for what needs a decision or a wait: once a tick to look at the limits, at the end, and when the
client's socket is full. Until that has room nothing more is read. So the buffer between the two is the kernel's: a slow
client slows its own provider connection and nothing else, and a stream costs no queue and no second greenlet.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn, Protocol

from app.config import Settings
from app.errors import ClientGone, GatewayError, UpstreamCut, UpstreamError
from app.logs import log_event
from app.services.streaming.sse import EventSplitter, decode_chunk, event_data, split_events
from app.services.streaming.stream_summary import Sightings
from app.shutdown import raise_if_drained
from app.upstream import Response, make_idle_timeout, make_total_timeout

HEARTBEAT = b": keep-alive\n\n"

# While the provider is silent we look this often whether the client is still there, in seconds, for the first time half
# as long again after the last event at most. A look is one system call, and each second that a departed client goes
# unnoticed is paid for in tokens.
PRESENCE_CHECK_S = 1.0

# After [DONE] the end of the transfer coding usually stands in the same packet; waiting this long for it saves a
# TLS handshake on the next request, waiting longer would delay the end of the client's answer.
_TAIL_WAIT_S = 0.05


class Channel(Protocol):
    """What carries the answer to the client, once its head has been sent."""

    def push(self, block: bytes) -> bool:
        """Sends `block` as far as the client takes it at once; returns whether it took all, else `flush` is due."""
        ...

    def flush(self) -> None:
        """Waits until the client has taken what it did not take at once; OSError where it does not."""
        ...


class Client(Protocol):
    """What the relay asks of the connection to the client."""

    def is_gone(self) -> bool:
        """Tells whether the client closed the connection."""
        ...


class Relay:
    """Iterates over what the client gets; `close` ends both sides and reports once.

    An object with `close()` and not a generator: a generator that was never started runs no `finally`, and a client
    may leave before the first event.

    Args:
        answer: the provider's answer, whose body is the stream.
        client: the client's connection.
        settings: the timeouts.
        deadline_s: when the stream must be over, on the monotonic clock.
        show_usage: whether the client asked for the usage-only event.
        report: called once, before the last block is handed out, with what was seen and the error that ended it, None
            for a complete stream; a client that left is reported as `ClientGone` at the close.
    """

    def __init__(
        self,
        answer: Response,
        *,
        client: Client,
        settings: Settings,
        deadline_s: float,
        show_usage: bool,
        report: Callable[[Sightings, GatewayError | None], None],
    ) -> None:
        self.sightings = Sightings()
        self._answer = answer
        self._client = client
        self._deadline_s = deadline_s
        self._idle_timeout_s = settings.upstream_idle_timeout_s
        self._heartbeat_s = settings.stream_heartbeat_s
        # How often the limits are looked at; a wait for an event then costs no arithmetic.
        self._tick_s = min(PRESENCE_CHECK_S, self._idle_timeout_s / 4, self._heartbeat_s / 4)
        self._show_usage = show_usage
        self._report: Callable[[Sightings, GatewayError | None], None] | None = report
        self._splitter = EventSplitter()
        self._last_arrival_s = self._last_sent_s = time.monotonic()
        self._error: GatewayError | None = None
        self._ended = False
        self._closed = False
        self._first: bytes | None = None
        self._block = b""
        self._channel: Channel | None = None
        self._is_stuck = False

    @property
    def error(self) -> GatewayError | None:
        """What ended the stream before it was complete, None as long as nothing did."""
        return self._error

    def begin(self) -> None:
        """Waits for what the client gets first, so that whatever goes wrong before it can be a real HTTP error.

        A silent provider is waited for until a heartbeat is due; from then on the client has an answer.

        Raises:
            GatewayError: the stream ended before its first event; it must still be closed.
        """
        try:
            self._first = self._next_block()
        except GatewayError as error:
            self._first = self._last_words(error)
        if self._error is not None and not self.sightings.events:
            raise self._error

    def attach(self, channel: Channel) -> None:
        """Lets events go straight to the client; called by who iterates, before it does, and who sends what it gets."""
        self._channel = channel

    def __iter__(self) -> Relay:
        return self

    def __next__(self) -> bytes:
        block, self._first = self._first or self._next(), None
        self._last_sent_s = time.monotonic()
        self.sightings.bytes_out += len(block)
        if self._ended:
            self._tell()  # Before the client can see the end, so that no answer which it has whole counts as lost.
        return block

    def _next(self) -> bytes:
        if self._ended:
            self._end()
        try:
            return self._next_block()
        except ClientGone as error:
            self._last_words(error)
            self._end()
        except GatewayError as error:
            return self._last_words(error)
        except Exception as error:
            log_event("relay failed", level="error", error=error)
            return self._last_words(GatewayError("The gateway failed in the middle of the answer. Retry."))

    def _end(self) -> NoReturn:
        """Ends the iteration: cleanly, or so that the client's HTTP library sees an unfinished answer."""
        if self._error is None:
            raise StopIteration
        # gunicorn closes the connection without a last chunk and, for EPIPE, without a traceback in its log.
        raise BrokenPipeError(errno.EPIPE, "the stream did not complete")

    def _next_block(self) -> bytes:
        """Returns what gunicorn is to send next: whole events, or a heartbeat. Meanwhile most events have passed by."""
        while True:
            self._check_time()
            try:
                self._answer.body.receive_each(self._tick_s, self._take)
            except TimeoutError:
                if self._heartbeat_is_due():
                    return HEARTBEAT
                continue
            if self._is_stuck:
                self._wait_for_client()
                continue
            block, self._block = self._block, b""
            if not block and not self._ended:
                raise self._premature_end()
            return block

    def _take(self, payload: bytes) -> bool:
        """Takes in what arrived and passes it on; returns whether that was all, and the next piece may come."""
        now_s = time.monotonic()
        gap_s, self._last_arrival_s = now_s - self._last_arrival_s, now_s
        if gap_s > self.sightings.longest_gap_s and self.sightings.events:
            self.sightings.longest_gap_s = gap_s
        events = self._splitter.feed(payload)
        block = self._examined(events) if events else b""
        self._ended = self.sightings.done or self._error is not None
        if self._ended or self._channel is None:
            self._block = block
            return not (block or self._ended)
        if not block:
            return True
        self._last_sent_s = now_s
        self.sightings.bytes_out += len(block)
        try:
            self._is_stuck = not self._channel.push(block)
        except OSError as error:
            raise ClientGone from error
        return not self._is_stuck

    def _wait_for_client(self) -> None:
        """Waits until a slow client has taken what was passed on; until then nothing is read from the provider."""
        assert self._channel is not None
        try:
            self._channel.flush()
        except OSError as error:
            raise ClientGone from error
        self._is_stuck = False

    def _check_time(self) -> None:
        raise_if_drained()
        if time.monotonic() >= self._deadline_s:
            raise make_total_timeout(self._answer.title)

    def _heartbeat_is_due(self) -> bool:
        """Looks around: raises what ends the stream, tells whether the client should hear something."""
        now_s = time.monotonic()
        if now_s - self._last_arrival_s >= self._idle_timeout_s:
            raise make_idle_timeout(self._answer.title)
        unheard_s = now_s - self._last_sent_s
        # While events flow, the second write to a departed client fails, and a look would be a system call for nothing.
        if unheard_s >= self._tick_s / 2 and self._client.is_gone():
            raise ClientGone
        return unheard_s >= self._heartbeat_s

    def _examined(self, events: bytes) -> bytes:
        """Notes what the events say, and returns those that the client gets."""
        shown = []
        try:
            for event in split_events(events):
                if self._is_shown(event):
                    shown.append(event)
                if self.sightings.done or self._error is not None:
                    break
        except UpstreamCut as error:
            shown.append(self._last_words(error))
        return shown[0] if len(shown) == 1 else b"".join(shown)

    def _is_shown(self, event: bytes) -> bool:
        """Notes one event and tells whether the client gets it; raises UpstreamCut where it is out of place."""
        data = event_data(event)
        if data is None:
            return self._is_comment(event)
        if data == b"[DONE]":
            if not self.sightings.complete:
                raise self._premature_end()
            self.sightings.done = True
            return True
        if data in {b"null", b""}:
            return False  # Featherless sends `data: null` now and then; either crashes SDKs.
        chunk = decode_chunk(data)
        self.sightings.note(chunk, self._last_arrival_s)
        if chunk.error is not None:
            self._error = UpstreamCut(f"{self._answer.title} reported an error in the middle of its answer.")
            return True
        return self._show_usage or bool(chunk.choices) or chunk.usage is None

    def _is_comment(self, event: bytes) -> bool:
        line = event.lstrip()
        if line.startswith(b":"):
            return True
        if line.startswith((b"event:", b"id:", b"retry:")):
            return False  # Legal without data, but the OpenAI SDK takes them for an empty chunk and raises.
        # Chutes tells of a failure in a bare JSON line; other bytes here are an edge's error page.
        raise UpstreamCut(f"{self._answer.title} sent something that is not part of a chat stream. Retry.")

    def _premature_end(self) -> UpstreamCut:
        title = self._answer.title
        return UpstreamCut(f"{title} ended its answer before it was complete. What came so far is not all. Retry.")

    def _last_words(self, error: GatewayError) -> bytes:
        self._error = error
        self._ended = True
        return error.to_event()

    def close(self) -> None:
        """Ends the stream on both sides and reports; may be called more than once, and before the first event."""
        if self._closed:
            return
        self._closed = True
        if not self._ended and self._error is None:
            self._error = ClientGone()
        self._tell()
        if self.sightings.done and not self._answer.body.complete:
            self._read_tail()
        self._answer.body.close()

    def _tell(self) -> None:
        report, self._report = self._report, None
        if report is not None:
            report(self.sightings, self._error)

    def _read_tail(self) -> None:
        # Once: a provider that goes on after [DONE] is no use on a kept connection, and might go on for ever.
        with suppress(TimeoutError, UpstreamError):
            self._answer.body.receive(_TAIL_WAIT_S)
