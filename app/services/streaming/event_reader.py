"""Reads the bytes of a stream as events: records what each one means, and returns what the client gets.

It joins the decoder, which handles the framing, and the endpoint's protocol, which interprets the events.
"""

from __future__ import annotations

from app.errors import GatewayError, UpstreamCut
from app.services.endpoints import Collector, Endpoint, EventKind, StreamProtocol, StreamSummary
from app.services.streaming.sse import SseDecoder

# Local names, because looking up a member of an enum costs as much as comparing it.
_CONTENT, _USAGE, _DONE, _ERROR = EventKind.CONTENT, EventKind.USAGE, EventKind.DONE, EventKind.ERROR


class EventReader:
    """Reads the events of one stream.

    Args:
        endpoint: the endpoint that the stream belongs to.
        provider_title: the provider's name, for messages.
        show_usage: whether the client gets an event that contains only usage.
        collector: receives the events instead of the client, which then gets none.

    Attributes:
        summary: what the events have contained so far.
        error: what ended the stream before it was complete, or None.
        is_over: whether the stream has ended, complete or not. After that no more is read.
    """

    __slots__ = (
        "_collector",
        "_decoder",
        "_errors",
        "_protocol",
        "_show_usage",
        "_title",
        "error",
        "is_over",
        "summary",
    )

    def __init__(
        self, endpoint: Endpoint, provider_title: str, *, show_usage: bool, collector: Collector | None = None
    ) -> None:
        assert endpoint.stream is not None
        self.summary = StreamSummary()
        self.error: GatewayError | None = None
        self.is_over = False
        self._protocol: StreamProtocol = endpoint.stream
        self._errors = endpoint.errors
        self._title = provider_title
        self._show_usage = show_usage
        self._collector = collector
        self._decoder = SseDecoder()

    @property
    def heartbeat(self) -> bytes:
        """The bytes for the client while the provider is silent."""
        return self._protocol.heartbeat

    def read(self, data: bytes, now_s: float) -> bytes:
        """Processes bytes that arrived at `now_s` (monotonic clock), and returns the events that the client gets.

        Invalid bytes end the stream: the last event returned is then the error.
        """
        shown: list[bytes] = []
        try:
            for event, event_data in self._decoder.decode(data):
                if self._observe(event, event_data, now_s):
                    shown.append(event)
                if self.is_over:
                    break
        except UpstreamCut as error:
            shown.append(self.fail(error))
        return shown[0] if len(shown) == 1 else b"".join(shown)

    def _observe(self, event: bytes, data: bytes | None, now_s: float) -> bool:
        """Processes one event, and returns whether the client gets it."""
        if data is None:
            return self._is_comment(event) and self._collector is None
        kind = self._protocol.observe(data, self.summary, now_s)
        if kind is _CONTENT or kind is _USAGE:
            if self._collector is not None:
                self._collector.add(data)
                return False
            return kind is _CONTENT or self._show_usage
        if kind is _DONE:
            self._finish()
        elif kind is _ERROR:
            self.error = UpstreamCut(f"{self._title} reported an error in the middle of its response.")
            self.is_over = True
        else:
            return False
        return self._collector is None

    def _is_comment(self, event: bytes) -> bool:
        line = event.lstrip()
        if line.startswith(b":"):
            return True
        if line.startswith((b"event:", b"id:", b"retry:")):
            return False  # Legal without data, but the OpenAI SDK takes them for an empty chunk and raises.
        # Chutes reports a failure in a bare JSON line, and proxies send error pages.
        raise UpstreamCut(f"{self._title} sent something that is not part of {self._protocol.title}. Retry.")

    def _finish(self) -> None:
        if not self._protocol.is_complete(self.summary):
            raise self._make_premature_end()
        self.summary.is_done = True
        self.is_over = True

    def _make_premature_end(self) -> UpstreamCut:
        return UpstreamCut(
            f"{self._title} ended its response before it was complete. The part received so far is incomplete. Retry."
        )

    def read_end(self) -> bytes:
        """Handles the end of the provider's response, and returns the error event if it came too early."""
        return b"" if self.is_over else self.fail(self._make_premature_end())

    def fail(self, error: GatewayError) -> bytes:
        """Ends the stream with `error`, and returns the event that tells the client."""
        self.error = error
        self.is_over = True
        return self._errors.make_event(error)
