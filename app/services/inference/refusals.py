"""Limits the number of one key's requests per second that this worker refuses and records.

A refused request costs its caller nothing, but its row takes room in the journal and in PostgreSQL. So after
MAX_REFUSALS_PER_SECOND, the key's further requests of that second are refused without being read, and share one row
with their number. The check is repeated when a request is refused, because many may be read at once.

Only mistakes of the caller count, not a failure of a provider or the gateway, and not a client that leaves.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from app.errors import GatewayError, TooManyRefusals
from app.metrics import count_unrecorded_refusal
from app.runtime import Component, Runtime, get_component
from app.services.endpoints import Endpoint
from app.services.inference.exchange import Exchange
from app.services.inference.metering import finish_with_error
from app.services.journal import Journal
from app.services.streaming import ClientConnection

WINDOW_S = 1.0


@dataclass(slots=True)
class _Window:
    """The refusals of one key in one second.

    Attributes:
        ends_s: when the second is over, on the monotonic clock.
        refusals: the number of refused requests with a row of their own.
        unrecorded: the number of refused requests without one.
        exchange: writes the one row for these; None if there are none, or once the row is written.
    """

    ends_s: float
    refusals: int = 0
    unrecorded: int = 0
    exchange: Exchange | None = None


class Refusals(Component):
    """Counts the refused requests of each gateway key. Only the operator makes keys, so there are few."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        runtime.get(Journal)  # Made first, so that the journal is closed after this component.
        self._most = self.settings.max_refusals_per_second
        self._windows: dict[str, _Window] = {}

    def finish(self, exchange: Exchange, error: GatewayError) -> None:
        """Finishes a request that was sent to no provider, and counts it if the caller made a mistake.

        Raises:
            TooManyRefusals: the request has no row of its own; the row that the error names counts it.
        """
        if error.outcome == "rejected" and error.status < 500:
            try:
                self.raise_if_too_many(exchange.endpoint, exchange.record.key_id)
            except TooManyRefusals:
                exchange.withdraw()
                raise
            self._count(exchange.record.key_id)
        finish_with_error(exchange, error)

    def _count(self, key_id: str) -> None:
        now_s, window = time.monotonic(), self._windows.get(key_id)
        if window is None or now_s >= window.ends_s:
            window = self._windows[key_id] = _Window(now_s + WINDOW_S)
        window.refusals += 1

    def raise_if_too_many(self, endpoint: Endpoint, key_id: str) -> None:
        """Raises if MAX_REFUSALS_PER_SECOND requests of the key were refused in this second, and counts this one too.

        Raises:
            TooManyRefusals: with the id of the row that counts this request.
        """
        window = self._windows.get(key_id)
        if window is None or window.refusals < self._most:
            return  # The usual case.
        left_s = window.ends_s - time.monotonic()
        if left_s <= 0:
            return
        if window.exchange is None:
            self._begin_row(window, endpoint, key_id, left_s)
        assert window.exchange is not None
        window.unrecorded += 1
        count_unrecorded_refusal(endpoint.path)
        raise _make_error(window.exchange.request_id, left_s)

    def _begin_row(self, window: _Window, endpoint: Endpoint, key_id: str, left_s: float) -> None:
        window.exchange = Exchange(endpoint, key_id, ClientConnection(None))
        timer = threading.Timer(left_s, _write_row, [window])
        timer.daemon = True
        timer.start()

    def write_rows(self) -> None:
        """Writes the rows of unfinished seconds, because the process ends."""
        for window in list(self._windows.values()):
            _write_row(window)

    def close(self) -> None:
        """Writes the remaining rows."""
        self.write_rows()


def _write_row(window: _Window) -> None:
    exchange, window.exchange = window.exchange, None
    if exchange is None:
        return
    error = _make_error(exchange.request_id, WINDOW_S)
    exchange.record.attempts = [{"status": error.status, "error": error.code, "requests": window.unrecorded}]
    finish_with_error(exchange, error)


def _make_error(request_id: str, left_s: float) -> TooManyRefusals:
    return TooManyRefusals(
        "Too many requests of this key were refused within this second, so this one was refused unread. Correct what "
        "the earlier errors describe, then retry.",
        request_id=request_id,
        retry_after_s=left_s,
    )


def write_refusals() -> None:
    """Writes the rows of refused requests that are still being counted. Called once, before a worker ends."""
    get_component(Refusals).write_rows()
