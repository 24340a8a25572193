"""Reads the bytes of a stream as events: records their contents, and returns the bytes for the client.

It joins the decoder, which handles the framing, and the endpoint's protocol, which interprets the events.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from app.errors import GatewayError, UpstreamCut, UpstreamError, drop_frames
from app.lenient_json import decode_leniently
from app.services.endpoints import (
    Collector,
    Endpoint,
    EventKind,
    EventWriter,
    RepairedEvent,
    StreamProtocol,
    StreamSummary,
)
from app.services.streaming.sse import MAX_EVENT_BYTES, SseDecoder, get_event_name, is_comment, redact_fields, with_data
from app.upstream import make_reported_error, make_unexpected_error, make_unreadable_error, reports_error

# Local names, because looking up an enum member costs as much as comparing it.
_CONTENT, _USAGE, _DONE, _ERROR = EventKind.CONTENT, EventKind.USAGE, EventKind.DONE, EventKind.ERROR
_OTHER = EventKind.OTHER

# The bytes around the data of a one-line event: `data: ` before it, and the blank line after it.
FRAME_BYTES = 8


class EventReader:
    """Reads the events of one stream.

    Args:
        endpoint: the endpoint that the stream belongs to.
        provider_title: the provider's name, for messages.
        show_usage: whether the client gets an event that contains only usage.
        collector: receives the events in place of the client, which then gets none.
        key_setting: the name of the setting that holds the gateway's key for the provider, for messages.
        writer: writes the translated events for the client of a translated endpoint.
        choices_expected: how many choices must finish at least, if the endpoint checks that.

    Attributes:
        summary: the contents of the events so far.
        error: the error that ended the stream before it was complete, or None.
        show_usage: as above.
        shows_events: whether the client gets the events themselves, not a replacement.
        note, note_steps: record a usual event, and nothing else; the second as two steps. See `StreamProtocol`.
        is_over: whether the stream has ended, complete or not. After that, nothing more is read.
    """

    __slots__ = (
        "_collector",
        "_decoder",
        "_endpoint",
        "_errors",
        "_key_setting",
        "_protocol",
        "_take",
        "_title",
        "_whole",
        "_writer",
        "error",
        "is_over",
        "note",
        "note_steps",
        "show_usage",
        "shows_events",
        "summary",
    )

    def __init__(
        self,
        endpoint: Endpoint,
        provider_title: str,
        *,
        key_setting: str,
        show_usage: bool,
        collector: Collector | None = None,
        writer: EventWriter | None = None,
        choices_expected: int = 1,
    ) -> None:
        assert endpoint.stream is not None
        self.summary = StreamSummary(choices_expected)
        self.error: GatewayError | None = None
        self.is_over = False
        self._protocol: StreamProtocol = endpoint.stream
        self._endpoint = endpoint
        self._errors = endpoint.errors
        self._title = provider_title
        self._key_setting = key_setting
        self.show_usage = show_usage
        self._collector = collector
        self._writer = writer
        # The replacement for the client as receiver, if any: combined so that each event needs only one check.
        taker = collector.add if collector is not None else writer.write if writer is not None else None
        self._take: Callable[[bytes], bytes | None] | None = taker
        self.shows_events = self._take is None
        self.note, self.note_steps = endpoint.stream.note, endpoint.stream.note_steps
        self._decoder = SseDecoder()
        self._whole = bytearray()  # A whole response in place of a stream, as far as received.

    @property
    def heartbeat(self) -> bytes:
        """The bytes for the client while the provider is silent."""
        return self._protocol.heartbeat if self._writer is None else self._writer.heartbeat

    @property
    def has_begun(self) -> bool:
        """Whether part of the response has arrived. Comments and unknown events do not count."""
        return bool(self.summary.events or self._whole)

    @property
    def is_between_events(self) -> bool:
        """Whether the next byte begins an event, because all bytes before it have been read."""
        return not (self.is_over or self._whole or self._decoder.has_part)

    def read(self, data: bytes, now_s: float) -> bytes:
        """Processes bytes that arrived at `now_s` (monotonic clock), and returns the events for the client.

        Invalid bytes end the stream: the last event returned is then the error.
        """
        self.summary.bytes_received += len(data)
        shown: list[bytes] = []
        try:
            for event, event_data in self._decoder.decode(data):
                if block := self._observe(event, event_data, now_s):
                    shown.append(block)
                if self.is_over:
                    break
        except UpstreamError as error:
            shown.append(self.fail(error))
        return shown[0] if len(shown) == 1 else b"".join(shown)

    def _observe(self, event: bytes, data: bytes | None, now_s: float) -> bytes:
        """Processes one event, and returns the bytes for the client."""
        if data is None:
            return self._observe_without_data(event, now_s)
        try:
            kind = self._protocol.observe(data, self.summary, now_s)
        except RepairedEvent as repaired:
            return self._observe(with_data(event, repaired.data), repaired.data, now_s)
        except UpstreamCut:
            if get_event_name(event) in self._protocol.event_names:
                raise
            kind = _OTHER
        if kind is _CONTENT or kind is _USAGE:
            if self._take is not None:
                return self._take(data) or b""
            if kind is _USAGE and not self.show_usage:
                return b""
            # Nearly all events are one line of data.
            return event if len(event) == len(data) + FRAME_BYTES else redact_fields(event)
        event = self._observe_rest(kind, event, data)
        return event if self._collector is None else b""

    def _observe_rest(self, kind: EventKind, event: bytes, data: bytes) -> bytes:
        """Processes an event that is not part of the response, and returns the bytes for the client."""
        if kind is _DONE:
            return self._finish(event)
        if kind is _ERROR:
            raise self._make_reported_error(decode_leniently(data))
        if kind is _OTHER:
            self._raise_if_error(event, data)
            return self.heartbeat  # It shows that the provider is alive, and no SDK takes it for a chunk.
        return b""

    def _observe_without_data(self, event: bytes, now_s: float) -> bytes:
        """Processes an event without data, and returns the bytes for the client: usually a comment, unchanged."""
        if self._whole:
            return self._collect_whole(event)
        line = event.strip()
        if is_comment(event):
            return redact_fields(event) if line and self._collector is None else b""
        # Events with only these fields are legal, but the OpenAI SDK takes them for an empty chunk and raises.
        if not line or line.startswith((b":", b"event:", b"id:", b"retry:")):
            return b""
        if line.startswith(b"{") and not self.summary.events:
            return self._begin_whole(line, now_s)
        self._raise_if_error(event, line)
        # Proxies send error pages.
        raise UpstreamCut(f"{self._title} sent something that is not part of {self._protocol.title}. Retry.")

    def _begin_whole(self, line: bytes, now_s: float) -> bytes:
        """Reads a JSON document in place of a stream; Chutes reports a failure in one, after which it sends no more."""
        try:
            value = decode_leniently(line)
        except ValueError:
            return self._collect_whole(line)  # The document contains blank lines.
        return self._read_whole(value, now_s)

    def _collect_whole(self, part: bytes) -> bytes:
        self._whole += part + b"\n\n"
        if len(self._whole) > MAX_EVENT_BYTES:
            raise make_unreadable_error(self._title)
        return b""

    def _end_whole(self, now_s: float) -> bytes:
        """Reads the whole response collected so far, and returns the bytes for the client."""
        try:
            value = decode_leniently(bytes(self._whole))
        except ValueError:
            return self.fail(make_unreadable_error(self._title))
        try:
            return self._read_whole(value, now_s)
        except UpstreamError as error:
            return self.fail(error)

    def _read_whole(self, value: Any, now_s: float) -> bytes:
        """Reads a whole response as the equivalent stream, and returns the events for the client."""
        if reports_error(value):
            raise self._make_reported_error(value)
        try:
            whole = self._endpoint.summarize(value)
        except ValueError:
            raise make_unexpected_error(self._title, self._endpoint.title, value) from None
        self.summary.usage, self.summary.model = whole.usage, whole.model
        self.summary.finish_reason = whole.finish_reason
        if whole.failure is not None:
            raise self._make_reported_error(whole.failure)
        try:
            events = self._protocol.make_events(self._endpoint.normalise(value))
        except ValueError as error:
            raise make_unreadable_error(self._title) from error
        self._whole, self._decoder = bytearray(), SseDecoder()
        shown = self.read(events, now_s)
        if whole.output_tokens_estimate is not None:
            self.summary.output_events = whole.output_tokens_estimate
        return shown if self.is_over else shown + self.fail(self._make_premature_end())

    def _raise_if_error(self, event: bytes, data: bytes) -> None:
        """Raises the error that the provider reports in a form other than the endpoint's own."""
        try:
            document = decode_leniently(data)
        except ValueError:
            document = None
        if get_event_name(event) == b"error":
            is_object = isinstance(document, dict)
            raise self._make_reported_error(document if is_object else {"error": data.decode(errors="replace")})
        if reports_error(document):
            raise self._make_reported_error(document)

    def _make_reported_error(self, document: Any) -> UpstreamError:
        return make_reported_error(self._title, self._key_setting, document, headers={}, request_id=None)

    def _finish(self, event: bytes) -> bytes:
        """Ends a complete stream, and returns the client's bytes for the event that ended it."""
        if not self._protocol.is_complete(self.summary):
            raise self._make_premature_end()
        last = redact_fields(event) if self._writer is None else self._writer.end()
        self.summary.is_done = self.is_over = True
        return last

    def _make_premature_end(self) -> UpstreamCut:
        return UpstreamCut(
            f"{self._title} ended its response before it was complete. The part received so far is incomplete. Retry."
        )

    def read_end(self, now_s: float) -> bytes:
        """Handles the proper end of the provider's response, which also ends an event that lacks its blank line.

        Returns:
            The last events for the client, including the error if the end came too early.
        """
        if self.is_over:
            return b""
        shown: list[bytes] = []
        try:
            shown += [self._observe(event, data, now_s) for event, data in self._decoder.finish()]
        except UpstreamCut:
            pass  # Part of an event.
        except UpstreamError as error:
            shown.append(self.fail(error))
        if self._whole and not self.is_over and not self.summary.events:
            shown.append(self._end_whole(now_s))
        if not self.is_over:
            shown.append(self.fail(self._make_premature_end()))
        return b"".join(shown)

    def read_break(self, error: GatewayError) -> bytes:
        """Handles `error`, which ended the provider's response, and returns the event that reports it.

        If only the blank line after the end marker is missing, the response is complete, and that event is the marker.
        """
        if isinstance(error, UpstreamError):
            with suppress(UpstreamError, RepairedEvent):
                for event, data in self._decoder.finish():
                    if data is not None and self._protocol.observe(data.strip(), StreamSummary(), 0.0) is _DONE:
                        return self._finish(event)
        return self.fail(error)

    def fail(self, error: GatewayError) -> bytes:
        """Ends the stream with `error`, and returns the event that reports it."""
        drop_frames(error)  # Its frames refer to this reader.
        self.error, self.is_over = error, True
        return self._errors.make_event(error) if self._writer is None else self._writer.fail(error)
