"""gunicorn's gevent worker, with two manners added: it lets idle connections go, and it speaks JSON to everybody.

Idle connections: once told to stop, gunicorn's worker waits for every open connection until the graceful timeout, those
that only wait for a next request too. SDKs and proxies keep such connections open, so every deploy would take that
long, and the time to ship the journal would be gone. Here they are closed after LINGER_S.

JSON: a request that is no HTTP never reaches the application, and gunicorn would answer it with a page of HTML.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gevent
from gunicorn import util
from gunicorn.workers.ggevent import GeventWorker

# How long after the signal an idle connection may still bring a request, which is answered with "Connection: close".
# A proxy that has just chosen the connection needs milliseconds.
LINGER_S = 1.0


class _Idle(gevent.Timeout):  # type: ignore[misc]
    """Ends the wait for a connection's next request: after the keep-alive time, or earlier when the worker stops."""


class GatewayWorker(GeventWorker):  # type: ignore[misc]
    """The worker class that gunicorn.conf.py names."""

    def init_process(self) -> None:
        """Prepares the process after the fork."""
        util.write_error = _write_json_error
        self._waits: dict[_Idle, gevent.Greenlet] = {}
        super().init_process()

    @contextmanager
    def timeout_ctx(self) -> Iterator[None]:
        """Bounds the wait for the next request on a connection."""
        timeout = _Idle(self.cfg.keepalive if self.alive else LINGER_S)
        self._waits[timeout] = gevent.getcurrent()
        timeout.start()
        try:
            yield
        except _Idle as expired:
            if expired is not timeout:
                raise
        finally:
            timeout.cancel()
            del self._waits[timeout]

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Begins to stop: no new connections, and no waiting for idle ones."""
        super().handle_exit(sig, frame)
        gevent.spawn(self._release_idle)

    def _release_idle(self) -> None:
        gevent.sleep(LINGER_S)
        for timeout in list(self._waits):
            gevent.get_hub().loop.run_callback(self._release, timeout)

    def _release(self, timeout: _Idle) -> None:
        # Runs in gevent's hub, so the connection cannot have got a request between this look and the throw.
        if timeout in self._waits:
            self._waits[timeout].throw(timeout)


def _write_json_error(connection: socket.socket, status: int, reason: str, message: str) -> None:
    """Answers a request that could not be parsed, in the one error shape."""
    from app.errors import BadRequest, GatewayError

    error = GatewayError("The gateway failed on this request. Retry, and tell the operator.", status=status)
    if status < 500:
        text = (message or reason)[:200]
        error = BadRequest(f"This is not a valid HTTP request: {text}. Check the client.", status=status)
    body = error.to_json()
    head = (
        f"HTTP/1.1 {status} {reason}\r\nConnection: close\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    connection.settimeout(5)  # A client that sends garbage may not read either.
    connection.sendall(head.encode("latin-1", "replace") + body)
