"""Cancels the wait for a provider when the client disconnects, the deadline passes, or the drain is over.

A greenlet that waits for the head of a response can do nothing else, so a disconnect of the client would go unnoticed
until the provider responds. One watcher per process checks all such waits once a second, and raises the reason in the
waiting greenlet. If sockets are not gevent's (scripts, unit tests), waits are not watched, and only the socket timeouts
end them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from app.errors import ClientGone, GatewayError
from app.runtime import Component, Runtime
from app.services.streaming import PRESENCE_CHECK_S, ClientConnection
from app.shutdown import raise_if_drained
from app.upstream import make_total_timeout


class _Wait(AbstractContextManager[None]):
    """The wait of one greenlet. A generator-based context manager would cost four times as much per request.

    Attributes:
        is_over: whether the wait has ended, so that it may no longer be cancelled.
    """

    __slots__ = ("client", "deadline_s", "greenlet", "is_over", "title", "waits")

    def __init__(
        self, client: ClientConnection, deadline_s: float, title: str, waits: set[_Wait], greenlet: Any
    ) -> None:
        self.client = client
        self.deadline_s = deadline_s
        self.title = title
        self.waits = waits
        self.greenlet = greenlet
        self.is_over = False

    def __enter__(self) -> None:
        self.waits.add(self)

    def __exit__(self, *_: Any) -> None:
        self.is_over = True
        self.waits.discard(self)

    def get_reason(self) -> GatewayError | None:
        """Returns the error that must end this wait now, or None if it may continue."""
        try:
            raise_if_drained()
        except GatewayError as error:
            return error
        if time.monotonic() >= self.deadline_s:
            return make_total_timeout(self.title)
        return ClientGone() if self.client.is_gone() else None

    def cancel(self, reason: GatewayError) -> None:
        """Raises the reason in the waiting greenlet.

        Runs in gevent's hub, so no greenlet can run between the check of `is_over` and the throw.
        """
        if not self.is_over:
            self.greenlet.throw(reason)


class _Unwatched(AbstractContextManager[None]):
    def __exit__(self, *_: Any) -> None:
        return None


_UNWATCHED = _Unwatched()


class Watcher(Component):
    """Checks the waits of this process in a greenlet of its own.

    Attributes:
        waits: the waits that may be cancelled.
    """

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self.waits: set[_Wait] = set()
        self._get_current_greenlet: Callable[[], Any] | None = None
        from gevent.monkey import is_module_patched

        if is_module_patched("socket"):
            import gevent

            self._get_current_greenlet = gevent.getcurrent
            self._greenlet = gevent.spawn(self._watch)

    def watch(self, client: ClientConnection, deadline_s: float, title: str) -> AbstractContextManager[None]:
        """Returns a context manager that lets the wait in its body be cancelled.

        Args:
            client: the connection to the client; a disconnect ends the wait with ClientGone.
            deadline_s: when UpstreamTimeout ends the wait, on the monotonic clock.
            title: the provider's name, for that error.

        Raises:
            GatewayShutdown: the drain is over.
        """
        if self._get_current_greenlet is None:
            return _UNWATCHED
        return _Wait(client, deadline_s, title, self.waits, self._get_current_greenlet())

    def _watch(self) -> None:
        import gevent

        while True:
            gevent.sleep(PRESENCE_CHECK_S)
            self._cancel_waits(gevent.get_hub().loop)

    def _cancel_waits(self, loop: Any) -> None:
        # A function of its own, so that no local variable keeps the last reason, and with it the frames that it passed
        # through and their sockets, until another wait is cancelled.
        for wait in list(self.waits):
            reason = wait.get_reason()
            if reason is not None:
                loop.run_callback(wait.cancel, reason)

    def close(self) -> None:
        """Stops the watcher."""
        if self._get_current_greenlet is not None:
            self._greenlet.kill(block=False)
