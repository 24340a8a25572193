"""gunicorn's gevent worker, which lets idle connections go, speaks JSON to everybody, and answers in one write.

Idle connections: once told to stop, gunicorn's worker waits for every open connection until the graceful timeout, those
that only wait for a next request too. SDKs and proxies keep such connections open, so every deploy would take that
long, and the time to ship the journal would be gone. Here they are closed after LINGER_S.

One write: gunicorn sends the head and the body of an answer by themselves, and asks for the size of the send buffer
before each. Three system calls of four are saved, and the client's side wakes up once.

Patience: gunicorn waits for ever for a client that sends half a body or reads half an answer, and it reads the rest of
a body that was refused, however long, without letting another request have its turn. Here both are bounded.

JSON: a request that is no HTTP never reaches the application, and gunicorn would answer it with a page of HTML.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email.utils import formatdate
from functools import cache, lru_cache
from http import HTTPStatus
from typing import Any

import gevent
from gunicorn import util
from gunicorn.http import wsgi
from gunicorn.workers.ggevent import GeventWorker

# How long after the signal an idle connection may still bring a request, which is answered with "Connection: close".
# A proxy that has just chosen the connection needs milliseconds.
LINGER_S = 1.0

# How much of a refused body is read before others get their turn: some 10 ms of work.
_DISCARDED_BYTES = 65_536


class _Idle(gevent.Timeout):  # type: ignore[misc]
    """Ends the wait for a connection's next request: after the keep-alive time, or earlier when the worker stops."""


class GatewayWorker(GeventWorker):  # type: ignore[misc]
    """The worker class that gunicorn.conf.py names."""

    def init_process(self) -> None:
        """Prepares the process after the fork."""
        util.write_error = _write_json_error
        util.http_date = _http_date
        wsgi.base_environ = _base_environ
        # Each setting that gunicorn reads, some thirty a request, goes through __getattr__ to an object; now they are
        # plain attributes.
        self.cfg.__dict__.update({name: setting.get() for name, setting in self.cfg.settings.items()})
        self._waits: dict[_Idle, gevent.Greenlet] = {}
        super().init_process()

    def handle_request(self, listener_name: Any, req: Any, sock: socket.socket, addr: Any) -> None:
        """Serves one request of a client that may be silent for CLIENT_SEND_TIMEOUT, in its body and in its reading.

        Raises:
            StopIteration: the connection is over.
            OSError: it broke.
        """
        from app.runtime import get_settings

        patience_s = get_settings().client_send_timeout_s
        sock.settimeout(patience_s)
        try:
            self._serve(listener_name, req, sock, addr)
            if not _discard_rest(req, sock, time.monotonic() + patience_s):
                raise StopIteration  # gunicorn closes the connection, and says nothing in its log.
        except TimeoutError as error:
            raise BrokenPipeError(errno.EPIPE, "the client took nothing for too long") from error
        finally:
            with suppress(OSError):  # It is closed; there is nothing left to set.
                sock.settimeout(None)

    def _serve(self, listener_name: Any, req: Any, sock: socket.socket, addr: Any) -> None:
        """Serves one request: gunicorn's own method, less its hooks and access log, which the gateway does not use."""
        response = None
        try:
            response, environ = wsgi.create(req, sock, addr, listener_name, self.cfg, response_class=_Response)
            environ["wsgi.multithread"] = True
            if not self.alive:
                response.force_close()
            self._answer(environ, response)
        except OSError:
            raise
        except Exception:
            if response is None or not response.headers_sent:
                raise
            # Too late for an error answer: the client must see that the answer is not whole.
            self.log.exception("Error in the middle of an answer")
            raise StopIteration from None
        except (gevent.GreenletExit, SystemExit):
            raise StopIteration from None
        if response.should_close():
            raise StopIteration

    def _answer(self, environ: dict[str, Any], response: _Response) -> None:
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
        """Begins to stop: no new connections, and no waiting for idle ones. Before the first request it simply ends."""
        if not self.booted:
            os._exit(0)
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


class _Response(wsgi.Response):  # type: ignore[misc]
    """Holds the head back until there is something to send with it, and what a client does not take at once."""

    headers_sent: bool
    _held = b""

    def send_headers(self) -> None:
        """Makes the head ready; it leaves with the first piece of the body, or at the end."""
        if not self.headers_sent:
            lines = [*self.default_headers(), *(f"{name}: {value}\r\n" for name, value in self.headers), "\r\n"]
            self._held = "".join(lines).encode("latin-1")
            self.headers_sent = True

    def _emit_body(self, data: bytes) -> None:
        self._send(self._coded(data))

    def _coded(self, data: bytes) -> bytes:
        return b"%X\r\n%b\r\n" % (len(data), data) if self.chunked else data

    def push(self, block: bytes) -> bool:
        """Sends a block of the body as far as the client takes it at once; see `app.services.relay.Channel`."""
        coded = self._coded(block)
        try:
            sent = os.write(
                self.sock.fileno(), coded
            )  # The socket's own `send` would wait, and gevent's loop must not.
        except BlockingIOError:
            sent = 0
        self._held = coded[sent:]
        return not self._held

    def flush(self) -> None:
        """Sends what the client did not take at once."""
        self._send(b"")

    def close(self) -> None:
        """Ends the answer."""
        self.send_headers()
        if self._held or self.chunked:
            self._send(b"0\r\n\r\n" if self.chunked else b"")

    def _send(self, data: bytes) -> None:
        if self._held:
            data, self._held = self._held + data, b""
        sent = self.sock.send(data)
        # Not sendall, whose timeout is for all of the data: a slow client that reads on may take as long as it needs.
        while sent < len(data):
            sent += self.sock.send(memoryview(data)[sent:])


_make_base_environ = cache(wsgi.base_environ)


def _base_environ(cfg: Any) -> dict[str, Any]:
    """Returns what is the same for each request; gunicorn makes it anew, and a wrapper of its log with it."""
    return dict(_make_base_environ(cfg))


def _http_date() -> str:
    return _format_date(int(time.time()))


@lru_cache(maxsize=1)
def _format_date(second: int) -> str:
    return formatdate(second, usegmt=True)


def _discard_rest(req: Any, sock: socket.socket, deadline_s: float) -> bool:
    """Reads what is left of a request's body, so that its client gets to read the answer; tells whether it was all."""
    if getattr(req.body.reader, "length", None) == 0:
        return True  # Nearly always: the application has read a body of known length.
    try:
        while (left_s := deadline_s - time.monotonic()) > 0:
            sock.settimeout(left_s)
            if not req.body.read(_DISCARDED_BYTES):
                return True
            gevent.sleep(0)  # Reading from a fast sender never waits, so nobody else would ever run.
    except Exception:  # It stalls, it left, or its chunks are broken; gunicorn has its own errors for the last.
        return False
    return False


def _write_json_error(connection: socket.socket, status: int, reason: str, message: str) -> None:
    """Answers a request that could not be parsed, in the one error shape."""
    from app.errors import BadRequest, GatewayError

    error = GatewayError("The gateway failed on this request. Retry, and tell the operator.", status=status)
    if status != 500:  # 501 is for a transfer coding that nobody knows.
        text = (message or reason)[:200]
        error = BadRequest(f"This is not a valid HTTP request: {text}. Check the client.", status=status)
    body = error.to_json()
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nConnection: close\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    connection.settimeout(5)  # A client that sends garbage may not read either.
    connection.sendall(head.encode("latin-1", "replace") + body)
