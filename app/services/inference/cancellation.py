"""Ends a wait for a provider from outside: when the client has left, the time is up, or the gateway stops.

A greenlet that waits for the head of an answer can do nothing else, and a client that leaves then would go unnoticed
until the provider speaks. One watcher per process looks at all such waits once a second and raises the reason inside
the greenlet that waits. Where sockets are not gevent's (scripts, unit tests) nothing is watched, and the timeouts of
the sockets alone hold.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from typing import Any

from app.errors import ClientGone, GatewayError
from app.services.streaming.client_connection import ClientConnection
from app.services.streaming.relay import PRESENCE_CHECK_S
from app.shutdown import raise_if_drained
from app.upstream import make_total_timeout


class _Wait:
    """One greenlet that waits; `open` is False once it no longer may be interrupted."""

    __slots__ = ("client", "deadline_s", "greenlet", "open", "title")

    def __init__(self, client: ClientConnection, deadline_s: float, title: str, greenlet: Any) -> None:
        self.client = client
        self.deadline_s = deadline_s
        self.title = title
        self.greenlet = greenlet
        self.open = True

    def reason_to_end(self) -> GatewayError | None:
        try:
            raise_if_drained()
        except GatewayError as error:
            return error
        if time.monotonic() >= self.deadline_s:
            return make_total_timeout(self.title)
        return ClientGone() if self.client.is_gone() else None

    def end(self, reason: GatewayError) -> None:
        """Runs in gevent's hub, where no greenlet can move between the look at `open` and the throw."""
        if self.open:
            self.greenlet.throw(reason)


_waits: set[_Wait] = set()
_watcher: Any = None


def ends_early(client: ClientConnection, deadline_s: float, title: str) -> AbstractContextManager[None]:
    """Lets the wait in its body end early.

    Args:
        client: whose departure ends it, with ClientGone.
        deadline_s: when it must be over, on the monotonic clock; UpstreamTimeout ends it then.
        title: the provider's name, for that error.

    Raises:
        GatewayShutdown: the drain time ran out.
    """
    return _EarlyEnd(client, deadline_s, title)


class _EarlyEnd(AbstractContextManager[None]):
    """A generator would do, at four times the price, twice a request."""

    __slots__ = ("_wait",)

    def __init__(self, client: ClientConnection, deadline_s: float, title: str) -> None:
        self._wait: _Wait | None = None
        if _is_patched():
            _start_watcher()
            self._wait = _Wait(client, deadline_s, title, _getcurrent())

    def __enter__(self) -> None:
        if self._wait is not None:
            _waits.add(self._wait)

    def __exit__(self, *_: Any) -> None:
        if self._wait is not None:
            self._wait.open = False
            _waits.discard(self._wait)


def _getcurrent() -> Any:
    import gevent

    return gevent.getcurrent()


def _is_patched() -> bool:
    global _patched
    if _patched is None:
        from gevent.monkey import is_module_patched

        _patched = bool(is_module_patched("socket"))
    return _patched


_patched: bool | None = None


def _start_watcher() -> None:
    global _watcher
    if _watcher is None or _watcher.dead:
        import gevent

        _watcher = gevent.spawn(_watch)


def _watch() -> None:
    import gevent

    while True:
        gevent.sleep(PRESENCE_CHECK_S)
        for wait in list(_waits):
            reason = wait.reason_to_end()
            if reason is not None:
                gevent.get_hub().loop.run_callback(wait.end, reason)
