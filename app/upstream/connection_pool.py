"""The pool of connections to a provider: shares one TLS context, and closes idle connections before the provider."""

from __future__ import annotations

import queue
import select
import socket
import ssl
import time
import traceback
from dataclasses import dataclass
from functools import cache, cached_property
from ssl import CertificateError, SSLError
from typing import Any
from urllib.parse import urlsplit

import certifi
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, ProtocolError, ReadTimeoutError
from urllib3.exceptions import SSLError as TLSError

from app.upstream.first_bytes import make_receive
from app.upstream.http1 import NoResponse, ResponseHead, receive_head, send_request

# Edges in front of providers close idle connections after a minute or more (Cloudflare: 100 s and up, Envoy: one hour,
# nginx: 75 s by default, Node: 5 s). A request that is sent while the provider closes the connection fails, and may
# have been read; so the gateway closes first. If a provider closes earlier, a request on the reused connection is
# retried.
MAX_IDLE_S = 30.0

# New connections are opened on demand; this only bounds how many are kept for later requests.
_MAX_KEPT_CONNECTIONS = 1_000


@cache
def get_tls_context() -> ssl.SSLContext:
    """Returns the TLS context of the process: it trusts the system's authorities (or SSL_CERT_FILE's) and certifi's.

    By default urllib3 builds a context for each new connection; 1,000 streams over TLS then cost 690 MB instead of
    96 MB, measured.
    """
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context


@dataclass(slots=True)
class PooledResponse:
    """A response whose head has been received; unlike those of requests and urllib3, without a cookie jar and locks.

    Attributes:
        head: its head.
        connection: urllib3's connection, on which the body arrives.
        pool: the pool that the connection belongs to.
    """

    head: ResponseHead
    connection: Any
    pool: HttpPool

    def release(self, *, reusable: bool) -> None:
        """Gives the connection back to the pool, closed unless it is `reusable`."""
        if not reusable:
            self.connection.close()
        self.pool._put_conn(self.connection)


class ReusedConnectionBroken(ProtocolError):
    """A connection that had already served a request broke before the first byte of the response."""


class _KeptConnections:
    """A pool's queue that never waits: the standard library's last-in-first-out queue without its three locks.

    Args:
        most: the most items that it holds.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._items: list[Any] = []

    def put(self, item: Any, block: bool = False) -> None:
        """Adds an item; raises queue.Full if there is no room."""
        if len(self._items) >= self._most:
            raise queue.Full
        self._items.append(item)

    def get(self, block: bool = False, timeout: float | None = None) -> Any:
        """Removes and returns the item that was added last; raises queue.Empty if there is none."""
        try:
            return self._items.pop()
        except IndexError:
            raise queue.Empty from None

    def qsize(self) -> int:
        """Returns the number of items."""
        return len(self._items)


class HttpPool(HTTPConnectionPool):
    """urllib3's pool with its own HTTP/1.1 implementation: no http.client, no redirects, no retries.

    Connections that were idle for too long, or that the provider has closed meanwhile, are not used again.
    """

    QueueCls = _KeptConnections  # type: ignore[assignment]

    def urlopen(  # type: ignore[no-untyped-def, override]
        self, method, url, body=None, headers=None, timeout=None, **_others
    ) -> PooledResponse:
        """Sends one request and returns the response once its head has arrived. The parameters are those of urllib3.

        Raises:
            NewConnectionError, ConnectTimeoutError: no connection could be made.
            SSLError: the TLS handshake failed.
            ReadTimeoutError: the head did not arrive in time.
            ReusedConnectionBroken: the provider closed a kept connection at the same time.
            ProtocolError: the connection broke, or the response is not HTTP.
        """
        connection = self._get_conn()
        was_open = connection.sock is not None
        try:
            if not was_open:
                self._connect(connection, timeout.connect_timeout)
            # The public property computes the rest of a total time limit, and there is none.
            head = self._send_and_receive_head(connection, method, url, headers, body, timeout._read)
        except BaseException as error:
            connection.close()
            self._put_conn(connection)
            translated = self._translate_error(error, url, was_open)
            if translated is error:
                # If a wait was cancelled while connecting, only the frames of the traceback hold the new socket.
                traceback.clear_frames(error.__traceback__)
                raise
            raise translated from error
        return PooledResponse(head, connection, self)

    def _connect(self, connection: Any, timeout_s: float) -> None:
        connection.timeout = timeout_s
        try:
            connection.connect()
        except TimeoutError as error:  # From the TLS handshake; urllib3 translates earlier timeouts.
            raise ConnectTimeoutError(connection, "The TLS handshake took too long.") from error
        connection.input_poll = _make_input_poll(connection.sock)
        connection.receive = make_receive(connection.sock)

    def _send_and_receive_head(
        self, connection: Any, method: str, url: str, headers: Any, body: Any, timeout_s: float
    ) -> ResponseHead:
        sock = connection.sock
        # Writing may block while the provider reads slowly; it has the same time limit as the response's head.
        if sock.gettimeout() != timeout_s:
            sock.settimeout(timeout_s)
        # A provider that refuses a large body may respond and close before it has read all of it; the response counts.
        try:  # noqa: SIM105 - `suppress` would take longer than all else here.
            send_request(sock, method, url, {"Host": self._host_header, **headers}, body)
        except (BrokenPipeError, ConnectionResetError):
            pass
        return receive_head(sock, timeout_s, connection.receive)

    def _translate_error(self, error: BaseException, url: str, was_open: bool) -> BaseException:
        """Returns the urllib3 error that requests expects for `error`, or `error` itself."""
        if isinstance(error, TimeoutError):
            return ReadTimeoutError(self, url, "Read timed out.")
        if isinstance(error, SSLError | CertificateError) and not was_open:
            return TLSError(error)  # Only from the handshake. Later, a TLS error is a broken connection like any other.
        # Once the first byte of a response has arrived, the request was read and may have to be paid for.
        if was_open and isinstance(error, OSError | NoResponse):
            return ReusedConnectionBroken("The connection broke before the response.", error)
        if isinstance(error, OSError | ProtocolError):
            return ProtocolError("The connection broke before the response.", error)
        return error

    @cached_property
    def _host_header(self) -> str:
        default_port = {"http": 80, "https": 443}[self.scheme]
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port in {None, default_port} else f"{host}:{self.port}"

    def _put_conn(self, conn: Any) -> None:
        conn.idle_since_s = time.monotonic()
        super()._put_conn(conn)

    def _get_conn(self, timeout: float | None = None) -> Any:
        try:
            conn: Any = self.pool.get(block=False) if self.pool is not None else None
        except queue.Empty:
            conn = None
        if conn is None:
            return self._new_conn()
        # An idle connection becomes readable only when the provider has closed it.
        if conn.sock is not None and (time.monotonic() - conn.idle_since_s > MAX_IDLE_S or conn.input_poll.poll(0)):
            conn.close()  # It reconnects at its next use.
        return conn


class HttpsPool(HttpPool, HTTPSConnectionPool):
    """The same over TLS."""


def make_pool(base_url: str) -> HttpPool:
    """Returns a pool for the host of `base_url`, which begins with http:// or https://."""
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    if parts.scheme == "https":
        return HttpsPool(host, parts.port, maxsize=_MAX_KEPT_CONNECTIONS, ssl_context=get_tls_context())
    return HttpPool(host, parts.port, maxsize=_MAX_KEPT_CONNECTIONS)


def broke_reused_connection(error: BaseException) -> bool:
    """Returns whether `error` is a ReusedConnectionBroken or wraps one, as the errors of requests do."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, ReusedConnectionBroken):
            return True
        wrapped = next((arg for arg in inner.args if isinstance(arg, BaseException)), None)
        inner = wrapped or inner.__cause__ or inner.__context__
    return False


def _make_input_poll(connection: socket.socket) -> Any:
    """Returns an object whose `poll(0)` tells, without waiting, whether there is anything to read."""
    poll = _get_poll_class()()
    poll.register(connection.fileno(), select.POLLIN)
    return poll


@cache
def _get_poll_class() -> Any:
    # gevent's poll() is made for waiting and costs 50 µs; the original is one system call that does not wait.
    from gevent.monkey import get_original

    return get_original("select", "poll")
