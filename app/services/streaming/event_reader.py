"""Reads a stream's bytes as events: what each one means is noted, and what the client should get is returned.

The decoder knows the framing, the endpoint's protocol knows what an event means; this joins the two.
"""

from __future__ import annotations

from app.errors import GatewayError, UpstreamCut
from app.services.endpoints import Collector, Endpoint, EventKind, StreamProtocol, StreamSummary
from app.services.streaming.sse import SseDecoder

# Named once, because looking a member up in its class costs as much as comparing it.
_CONTENT, _USAGE, _DONE, _ERROR = EventKind.CONTENT, EventKind.USAGE, EventKind.DONE, EventKind.ERROR


class EventReader:
    """Reads the events of one stream.

    Args:
        endpoint: whose stream it is.
        provider_title: who sends it, for messages.
        show_usage: whether the client gets an event that holds only usage.
        collector: takes the events instead of the client, who gets nothing then.

    Attributes:
        summary: what the events said so far.
        error: what ended the stream before it was complete; None as long as nothing did.
        is_over: whether the stream has ended, complete or not. No more is read then.
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
        """What the client gets while the provider is silent."""
        return self._protocol.heartbeat

    def read(self, data: bytes, now_s: float) -> bytes:
        """Takes in bytes that arrived at `now_s` (monotonic clock), and returns the events that the client gets.

        Bytes that are no stream end it: then the last event returned is the error.
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
        """Notes what one event says, and returns whether the client gets it."""
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
            self.error = UpstreamCut(f"{self._title} reported an error in the middle of its answer.")
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
        # Chutes reports a failure in a bare JSON line. Other bytes here are an error page of a proxy.
        raise UpstreamCut(f"{self._title} sent something that is not part of {self._protocol.title}. Retry.")

    def _finish(self) -> None:
        if not self._protocol.is_complete(self.summary):
            raise self._make_premature_end()
        self.summary.is_done = True
        self.is_over = True

    def _make_premature_end(self) -> UpstreamCut:
        return UpstreamCut(
            f"{self._title} ended its answer before it was complete. What came so far is not all. Retry."
        )

    def read_end(self) -> bytes:
        """Takes in that the provider's response has ended, and returns what the client gets for it."""
        return b"" if self.is_over else self.fail(self._make_premature_end())

    def fail(self, error: GatewayError) -> bytes:
        """Ends the stream with `error`, and returns the event that tells the client."""
        self.error = error
        self.is_over = True
        return self._errors.make_event(error)
