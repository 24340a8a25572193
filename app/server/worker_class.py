"""gunicorn's gevent worker, adapted: it closes idle connections when it stops, and limits its waits for clients.

Idle connections: a stopping gunicorn worker waits for every open connection until the graceful timeout, even for idle
ones. SDKs and proxies keep such connections open, so every deploy would take that long and leave no time to ship the
journal. Here they are closed after LINGER_S.

Waits: gunicorn waits without a limit for a client that sends half a body or reads half a response. Here both waits are
limited. `request_reading.py` describes how much of a worker one client's request can take.

`request_head.py` reads the usual requests; gunicorn parses all others. `response.py` has the response class and the
errors for requests that are not HTTP.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Iterable, MutableSequence
from functools import cache, lru_cache
from importlib import metadata
from typing import Any

import gevent
from gunicorn import http, util
from gunicorn.arbiter import Arbiter
from gunicorn.http import body, message, parser, wsgi
from gunicorn.workers.ggevent import GeventWorker

from app.config import Settings
from app.server.request_head import ConnectionParser, create
from app.server.request_reading import PacedUnreader, discard_unread_body, read_directly
from app.server.response import BufferedResponse, find_path, refused_path, write_error
from app.server.restart import drain_if_orphaned

# How long after the stop signal an idle connection may still bring a request; its response has "Connection: close". A
# proxy that has just chosen the connection needs milliseconds.
LINGER_S = 1.0

# The pause before gunicorn replaces a worker that could not start.
START_RETRY_S = 2.0


class _IdleTimeout(BaseException):
    """Ends the wait for a connection's next request: after the keep-alive time, or earlier when the worker stops."""


class _IdleWait:
    """The wait of one greenlet for its connection's next request, as a context manager.

    `GatewayWorker.notify` ends waits that take too long. A gevent timer for each would cost a request 15 µs.

    Args:
        waits: the worker's current waits, which include this one while it lasts.
        timeout_s: its time limit, in seconds.
    """

    __slots__ = ("ends_s", "greenlet", "waits")

    def __init__(self, waits: set[_IdleWait], timeout_s: float) -> None:
        self.waits = waits
        self.greenlet = gevent.getcurrent()
        self.ends_s = time.monotonic() + timeout_s

    def __enter__(self) -> None:
        self.waits.add(self)

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        self.waits.discard(self)
        return isinstance(error, _IdleTimeout)

    def end(self) -> None:
        """Ends the wait; gunicorn then closes the connection."""
        # Runs in gevent's hub, so the connection cannot get a request between this check and the throw.
        if self in self.waits:
            self.greenlet.throw(_IdleTimeout)


class GatewayWorker(GeventWorker):  # type: ignore[misc]
    """The worker class of gunicorn.conf.py.

    Attributes:
        others_serve: whether other workers serve; set after the fork.
        gateway_stops: its first byte is 1 once the whole gateway stops, and not only this worker; set after the fork.
        settings: the settings of the main process; set after the fork.
    """

    others_serve = False
    gateway_stops: MutableSequence[int] = bytearray(1)
    settings: Settings

    def patch(self) -> None:
        """Patches the standard library for gevent; the installed packages are read only once for this.

        By default gevent reads all of them 25 times, in search of plugins: a tenth of a worker's start time.
        """
        read_packages = metadata.entry_points
        metadata.entry_points = read_packages().select
        try:
            super().patch()
        finally:
            metadata.entry_points = read_packages

    def init_process(self) -> None:
        """Prepares the process after the fork."""
        util.write_error = write_error
        wsgi.base_environ = _get_base_environ
        parser.SocketUnreader = PacedUnreader
        http.RequestParser = ConnectionParser
        body.Body.read = read_directly
        message.HeaderPolicy._peer_is_trusted_proxy = _is_peer_trusted
        # gunicorn reads some thirty settings per request, each through __getattr__ and an object. This makes them plain
        # attributes.
        self.cfg.__dict__.update({name: setting.get() for name, setting in self.cfg.settings.items()})
        self._idle: set[_IdleWait] = set()
        try:
            super().init_process()
        except (Exception, SystemExit) as error:
            is_sentence = isinstance(error, SystemExit) and isinstance(error.code, str)
            if self.booted or not (is_sentence or isinstance(error, Exception)):
                raise
            self._give_up_start(error)

    def _give_up_start(self, error: Exception | SystemExit) -> None:
        """Ends this worker, which cannot start; ends the gateway only if no other worker serves.

        gunicorn would stop all workers because of one, and print the traceback a second time.
        """
        from app.logs import log_event

        next_step = (
            "The other workers serve on, and another start is tried. Correct the code or the settings, and reload."
            if self.others_serve
            else "The gateway stops. Correct the code or the settings, and start it again."
        )
        said: dict[str, Any] = {"error": error}
        if isinstance(error, SystemExit):  # It carries a sentence for the operator.
            said = {"reason": str(error.code).removeprefix("The gateway cannot start: ")}
        log_event("worker_start_failed", level="error", next_step=next_step, **said)
        if not self.others_serve:
            os._exit(Arbiter.WORKER_BOOT_ERROR)
        time.sleep(START_RETRY_S)
        os._exit(1)

    def load_wsgi(self) -> None:
        """Loads the application with the settings of the main process, and the time limits that each request needs."""
        from app.runtime import use_settings

        use_settings(self.settings)
        super().load_wsgi()
        self._send_timeout_s = self.settings.client_send_timeout_s
        self._body_timeout_s = self.settings.client_body_timeout_s

    def handle_request(self, listener_name: Any, req: Any, sock: socket.socket, addr: Any) -> None:
        """Serves one request; gives up if the client neither sends nor reads for CLIENT_SEND_TIMEOUT seconds.

        Raises:
            StopIteration: the connection must be closed; gunicorn closes it and logs nothing.
            OSError: the connection broke.
        """
        timeout_s = self._send_timeout_s
        sock.settimeout(timeout_s)
        req.unreader.begin_body(req.body.reader, timeout_s, self._body_timeout_s)
        try:
            closing = self._serve(listener_name, req, sock, addr)
            is_at_end = discard_unread_body(req, sock, timeout_s, closing=closing)
            if closing or not is_at_end:
                raise StopIteration
        except TimeoutError as error:
            raise BrokenPipeError(errno.EPIPE, "the client neither sent nor read for too long") from error
        finally:
            req.unreader.end_request()
            sock.settimeout(None)

    def handle_error(self, req: Any, client: socket.socket, addr: Any, exc: BaseException) -> None:
        """Logs a request that could not be parsed or served, and responds to it; both have the same new id."""
        from app.logs import set_request_id
        from app.services.journal import make_request_id

        set_request_id(make_request_id())
        refused_path.set(find_path(req, exc))
        super().handle_error(req, client, addr, exc)

    def _serve(self, listener_name: Any, req: Any, sock: socket.socket, addr: Any) -> bool:
        """Serves one request: gunicorn's own method without hooks and access log, which the gateway does not use.

        Returns:
            Whether the connection is to be closed.
        """
        response = None
        try:
            response, environ = create(req, sock, addr, listener_name, self.cfg)
            if not self.alive:
                response.force_close()
            self._respond(environ, response)
        except OSError:
            raise
        except Exception as error:
            if response is None or not response.headers_sent:
                raise
            from app.logs import log_event

            # An error response is no longer possible. Closing the connection shows the client that the response was cut
            # off.
            log_event("response_failed", level="error", error=error)
            raise StopIteration from None
        except (gevent.GreenletExit, SystemExit):
            raise StopIteration from None
        return bool(response.should_close())

    def _respond(self, environ: dict[str, Any], response: BufferedResponse) -> None:
        """Calls the application and sends its result. A relay gets the response object and sends events itself."""
        blocks = self.wsgi(environ, response.start_response)
        if hasattr(blocks, "attach"):
            blocks.attach(response)
        try:
            for block in blocks:
                response.write(block)
            response.close()
        finally:
            if hasattr(blocks, "close"):
                blocks.close()

    def timeout_ctx(self) -> _IdleWait:
        """Returns a context manager that bounds the wait for the next request on a connection."""
        return _IdleWait(self._idle, self.cfg.keepalive if self.alive else LINGER_S)

    def notify(self) -> None:
        """Ends waits that take too long, and tells gunicorn's main process that the worker is alive.

        gunicorn calls it once a second, even while the worker stops.
        """
        if not drain_if_orphaned(self):
            super().notify()
        now_s = time.monotonic()
        self._end_idle_waits([wait for wait in self._idle if wait.ends_s <= now_s])

    def _end_idle_waits(self, waits: Iterable[_IdleWait]) -> None:
        for wait in waits:
            gevent.get_hub().loop.run_callback(wait.end)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Accepts no new connections and closes idle ones; a worker that has not booted exits at once."""
        if not self.booted:
            os._exit(0)
        super().handle_exit(sig, frame)
        gevent.spawn(self._close_idle_connections)

    def _close_idle_connections(self) -> None:
        gevent.sleep(LINGER_S)
        self._end_idle_waits(list(self._idle))


_make_base_environ = cache(wsgi.base_environ)


def _get_base_environ(cfg: Any) -> dict[str, Any]:
    """Returns a copy of the environ that all requests share; gunicorn would build it anew for each request."""
    return dict(_make_base_environ(cfg))


_is_trusted_proxy = message.HeaderPolicy._peer_is_trusted_proxy


def _is_peer_trusted(policy: Any) -> bool:
    """Returns whether the sender of a request is a proxy that gunicorn trusts; cached for each address."""
    peer = policy.peer_addr
    return _is_address_trusted(policy.cfg, peer[0]) if isinstance(peer, tuple) else True


@lru_cache(maxsize=1_000)
def _is_address_trusted(cfg: Any, address: str) -> bool:
    policy = message.HeaderPolicy()
    policy.cfg, policy.peer_addr = cfg, (address, 0)
    return bool(_is_trusted_proxy(policy))
