"""Relays a stream from the provider to the client: sockets, clocks, and the heartbeat.

Events go from one socket to the other in gevent's loop as soon as they arrive, while the request's greenlet sleeps. It
wakes up once per tick to check the limits, at the end, and when the client's socket is full. Until that socket accepts
more, nothing is read, so only the kernel buffers between the two sockets: a slow client slows only its own provider
connection, and a stream needs no queue and no second greenlet.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from typing import NoReturn

from app.config import Settings
from app.errors import ClientGone, GatewayError, UpstreamError
from app.logs import log_event
from app.services.endpoints import StreamSummary
from app.services.streaming.client_connection import Channel, Client
from app.services.streaming.event_reader import EventReader
from app.services.streaming.passage import make_passage
from app.shutdown import raise_if_drained
from app.upstream import Response, make_first_byte_timeout, make_idle_timeout, make_total_timeout

# The interval of checks for the client's presence while the provider is silent, in seconds. The first check comes at
# most one and a half intervals after the last event. A check is one system call, and each second in which a disconnect
# goes unnoticed costs tokens.
PRESENCE_CHECK_S = 1.0

# The end of the transfer coding usually arrives in the same packet as the end marker. Waiting this long for it saves a
# TLS handshake on the next request; waiting longer would delay the end of the client's response.
_TAIL_WAIT_S = 0.05


class _State(Enum):
    OPEN = "open"  # More events may come.
    BLOCKED = "blocked"  # The client's socket is full. Nothing is read until it has accepted the rest.
    ENDED = "ended"  # Nothing more will be read. The pending block is the client's last.
    CLOSED = "closed"


class Relay:
    """Iterates over the blocks for the client; `close` ends both sides.

    This is an object with `close()` and not a generator, because a generator that was never started runs no `finally`,
    and a client may disconnect before the first event.

    Args:
        response: the provider's response, whose body is the stream.
        reader: reads its events.
        client: the client's connection.
        settings: the timeouts.
        deadline_s: when the stream must be over, on the monotonic clock.
        on_end: called once with the summary and the error that ended the stream, or None for a complete one. It is
            called before the last block is returned, or by `close` if the client disconnected.
        first_event_by_s: the latest time for the first event to arrive, on the monotonic clock; comments do not count.
            None for no limit.
    """

    def __init__(
        self,
        response: Response,
        reader: EventReader,
        *,
        client: Client,
        settings: Settings,
        deadline_s: float,
        on_end: Callable[[StreamSummary, GatewayError | None], None],
        first_event_by_s: float | None = None,
    ) -> None:
        self.summary = reader.summary
        self._response = response
        self._reader = reader
        self._client = client
        self._deadline_s = deadline_s
        self._settings = settings
        self._idle_timeout_s = settings.upstream_idle_timeout_s
        self._heartbeat_s = settings.stream_heartbeat_s
        # The interval of limit checks. It is fixed, so that waiting for an event needs no arithmetic.
        self._tick_s = min(PRESENCE_CHECK_S, self._idle_timeout_s / 4, self._heartbeat_s / 4)
        self._first_event_by_s = first_event_by_s
        self._on_end: Callable[[StreamSummary, GatewayError | None], None] | None = on_end
        self._state = _State.OPEN
        self._pending = b""
        self._channel: Channel | None = None
        # Receives the provider's bytes in place of the body: the fast path to the client, once there is one.
        self._on_data: Callable[[bytes], bool] | None = None
        self.summary.last_arrival_s = self.summary.last_sent_s = time.monotonic()

    @property
    def error(self) -> GatewayError | None:
        """The error that ended the stream before it was complete, or None."""
        return self._reader.error

    def begin(self) -> None:
        """Waits for the first block, so that any failure before it can be a real HTTP error.

        If the provider is silent, the wait ends when a heartbeat is due. From then on the client has a response. With
        `first_event_by_s`, the client gets neither heartbeats nor the provider's comments before the first event.

        Raises:
            GatewayError: the stream ended before any output, so the client has received none; it must still be closed.
        """
        try:
            self._pending = self._wait_for_block()
            while self._first_event_by_s is not None and self._must_begin():
                if self._client.is_gone():
                    raise ClientGone
                self._pending = b""
                self._pending = self._wait_for_block()
        except GatewayError as error:
            self._pending = self._fail(error)
        if self.error is not None and not self.summary.output_events:
            raise self.error

    def _must_begin(self) -> bool:
        """Returns whether the first event is still to come, after which it is too late for another provider."""
        return self._state is _State.OPEN and not self._reader.has_begun

    def attach(self, channel: Channel) -> None:
        """Lets events go directly to the client. Call it before iterating, and still send the blocks returned."""
        self._channel = channel

    def __iter__(self) -> Relay:
        return self

    def __next__(self) -> bytes:
        block, self._pending = self._pending or self._get_next_block(), b""
        self.summary.last_sent_s = time.monotonic()
        self.summary.bytes_sent += len(block)
        if self._state is _State.ENDED:
            # Reported before the client sees the end, so that a response received in full is not recorded as lost.
            self._report_end()
        return block

    def _get_next_block(self) -> bytes:
        if self._state is _State.ENDED:
            self._stop()
        try:
            return self._wait_for_block()
        except ClientGone as error:
            self._fail(error)
            self._stop()
        except GatewayError as error:
            return self._fail(error)
        except Exception as error:
            log_event("relay_failed", level="error", error=error)
            return self._fail(GatewayError("The gateway failed in the middle of the response. Retry."))

    def _stop(self) -> NoReturn:
        """Ends the iteration: normally, or so that the client's HTTP library sees an incomplete response."""
        if self.error is None:
            raise StopIteration
        # For EPIPE, gunicorn closes the connection without a last chunk and without a traceback in its log.
        raise BrokenPipeError(errno.EPIPE, "the stream did not complete")

    def _fail(self, error: GatewayError) -> bytes:
        self._state = _State.ENDED
        return self._reader.read_break(error)

    def _wait_for_block(self) -> bytes:
        """Returns the next block for gunicorn to send. During the wait most events bypass it and go to the channel."""
        if self._on_data is None and self._channel is not None:
            self._on_data = self._find_fast_path(self._channel)
        while True:
            self._raise_if_time_is_up()
            tick_s = self._tick_s if self._first_event_by_s is None else self._get_tick_s(self._first_event_by_s)
            try:
                self._response.body.receive_each(tick_s, self._on_payload, self._on_data)
            except TimeoutError:
                silent_s = self._get_silence_s()
                if silent_s >= self._heartbeat_s:
                    return self._reader.heartbeat
                continue
            if self._state is _State.BLOCKED:
                self._wait_for_client()
                continue
            if not self._pending and self._state is _State.OPEN:
                self._pending, self._state = self._reader.read_end(time.monotonic()), _State.ENDED
            block, self._pending = self._pending, b""
            return block

    def _get_tick_s(self, first_event_by_s: float) -> float:
        """Returns the seconds until the limits are checked again; raises if the first event is late."""
        if not self._must_begin():
            self._first_event_by_s = None
            return self._tick_s
        left_s = first_event_by_s - time.monotonic()
        if left_s <= 0:
            raise make_first_byte_timeout(self._response.title)
        return min(self._tick_s, left_s)

    def _on_payload(self, payload: bytes) -> bool:
        """Passes on a payload and returns whether more is wanted. It runs in gevent's loop, so it must not wait."""
        now_s, summary = time.monotonic(), self.summary
        gap_s, summary.last_arrival_s = now_s - summary.last_arrival_s, now_s
        if gap_s > summary.longest_gap_s and summary.events:
            summary.longest_gap_s = gap_s
        block = self._reader.read(payload, now_s)
        if self._reader.is_over:
            self._pending, self._state = block, _State.ENDED
            return False
        if not block:
            return True
        if self._channel is None:
            self._pending = block
            return False
        summary.last_sent_s = now_s
        summary.bytes_sent += len(block)
        try:
            accepted_all = self._channel.push(block)
        except OSError as error:
            raise ClientGone from error
        if not accepted_all:
            self._state = _State.BLOCKED
        return accepted_all

    def _find_fast_path(self, channel: Channel) -> Callable[[bytes], bool] | None:
        """Returns the fast path, or None if the client gets the events in another form, or not directly."""
        raw_socket = channel.get_raw_socket()
        if raw_socket is None or not self._reader.shows_events:
            return None
        return make_passage(self._response.body, self._reader, raw_socket, self._keep_unsent, self._settings)

    def _keep_unsent(self, rest: bytes) -> bool:
        """Keeps the bytes that the client's socket did not accept; nothing is read until it has them."""
        assert self._channel is not None
        self._channel.keep_unsent(rest)
        self._state = _State.BLOCKED
        return False

    def _wait_for_client(self) -> None:
        assert self._channel is not None
        try:
            self._channel.flush()
        except OSError as error:
            raise ClientGone from error
        self._state = _State.OPEN

    def _raise_if_time_is_up(self) -> None:
        raise_if_drained()
        if time.monotonic() >= self._deadline_s:
            raise make_total_timeout(self._response.title)

    def _get_silence_s(self) -> float:
        """Returns how long nothing has been sent to the client, in seconds.

        Raises:
            UpstreamTimeout: the provider has sent nothing for UPSTREAM_IDLE_TIMEOUT.
            ClientGone: the client has disconnected.
        """
        now_s = time.monotonic()
        if now_s - self.summary.last_arrival_s >= self._idle_timeout_s:
            raise make_idle_timeout(self._response.title)
        silent_s = now_s - self.summary.last_sent_s
        # While events flow, the second write after a disconnect fails, so the check would be a wasted system call.
        if silent_s >= self._tick_s / 2 and self._client.is_gone():
            raise ClientGone
        return silent_s

    def close(self) -> None:
        """Ends the stream on both sides and reports its end. It may be called twice, and before the first event."""
        if self._state is _State.CLOSED:
            return
        if self._state is not _State.ENDED and self.error is None:
            self._reader.fail(ClientGone())
        self._state = _State.CLOSED
        self._on_data = None  # It refers to this relay; this breaks the reference cycle.
        self._report_end()
        body = self._response.body
        if self.summary.is_done and not body.complete:
            self._receive_tail()
        body.close()

    def _report_end(self) -> None:
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end(self.summary, self.error)

    def _receive_tail(self) -> None:
        # Only once: a provider that sends on after the end marker might never stop. Its connection is not reused.
        with suppress(TimeoutError, UpstreamError):
            self._response.body.receive(_TAIL_WAIT_S)
