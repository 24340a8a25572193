"""The connections to a provider: one TLS context for all of them, and none kept idle until the provider drops it."""

from __future__ import annotations

import queue
import select
import socket
import ssl
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property
from ssl import CertificateError, SSLError
from typing import Any

import certifi
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, ProtocolError, ReadTimeoutError
from urllib3.exceptions import SSLError as TLSError

from app.upstream.http1 import Head, NoAnswer, receive_head, send_request

# Edges in front of providers close idle connections after a minute or more (Cloudflare: 100 s and up, Envoy: one
# hour, nginx: 75 s by default, Node: 5 s). A request sent into a closing connection fails after it may have been
# read, so we leave first. Those that close earlier are met by one retry of a reused connection.
MAX_IDLE_S = 30.0


@cache
def tls_context() -> ssl.SSLContext:
    """Returns the process's one TLS context: the system's authorities (or SSL_CERT_FILE's) and certifi's.

    Left to itself urllib3 builds a context for each new connection; a thousand streams over TLS then cost 690 MB
    instead of 96 MB, measured.
    """
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context


@dataclass(slots=True)
class Reply:
    """An answer whose head has been read; requests' and urllib3's own classes for one bring a cookie jar and locks.

    Attributes:
        head: its head.
        connection: urllib3's connection, on which the body comes.
        pool: where the connection belongs.
    """

    head: Head
    connection: Any
    pool: HttpPool

    def release(self) -> None:
        """Gives the connection back."""
        self.pool._put_conn(self.connection)


class HttpPool(HTTPConnectionPool):
    """urllib3's pool with an exchange of its own: no http.client, no redirects, no retries.

    Connections that were idle for too long, or that the provider closed meanwhile, are not used.
    """

    def urlopen(  # type: ignore[no-untyped-def, override]
        self, method, url, body=None, headers=None, timeout=None, **_others
    ) -> Reply:
        """Sends one request and returns its answer once the head is there; what it takes is what requests gives.

        Raises:
            NewConnectionError, ConnectTimeoutError: there was no connection.
            ReadTimeoutError: the head did not come in time.
            ProtocolError: the connection broke, or what came is not HTTP; `was_reused` tells of which connection.
        """
        connection = self._get_conn()
        reused = connection.sock is not None
        try:
            if not reused:
                self._connect(connection, timeout.connect_timeout)
            head = self._exchange(connection, method, url, headers, body, timeout.read_timeout)
        except BaseException as error:
            connection.close()
            self._put_conn(connection)
            translated = self._translated(error, url, reused)
            if translated is error:
                raise
            raise translated from error
        return Reply(head, connection, self)

    def _connect(self, connection: Any, timeout_s: float) -> None:
        connection.timeout = timeout_s
        try:
            connection.connect()
        except TimeoutError as error:  # In the TLS handshake; urllib3 translates those before it.
            raise ConnectTimeoutError(connection, "The TLS handshake took too long.") from error

    def _exchange(self, connection: Any, method: str, url: str, headers: Any, body: Any, timeout_s: float) -> Head:
        # Writing may block while the provider reads slowly; it gets as long as the answer's head does.
        connection.sock.settimeout(timeout_s)
        # A provider that refuses a large body answers and closes before it has read all of it; the answer counts.
        with suppress(BrokenPipeError, ConnectionResetError):
            send_request(connection.sock, method, url, {"Host": self._host_header, **headers}, body)
        return receive_head(connection.sock, timeout_s)

    def _translated(self, error: BaseException, url: str, reused: bool) -> BaseException:
        if isinstance(error, TimeoutError):
            return ReadTimeoutError(self, url, "Read timed out.")
        if isinstance(error, SSLError | CertificateError) and not reused:
            return TLSError(error)  # Of the handshake; later it is a broken connection like any other.
        if isinstance(error, OSError | ProtocolError):
            broken = ProtocolError("The connection broke before the answer.", error)
            # Once a byte of the answer has come, the request was read and may be paid for.
            broken.on_reused_connection = reused and isinstance(error, OSError | NoAnswer)  # type: ignore[attr-defined]
            return broken
        return error

    @cached_property
    def _host_header(self) -> str:
        default = {"http": 80, "https": 443}[self.scheme]
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port in {None, default} else f"{host}:{self.port}"

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
        if conn.sock is not None and (time.monotonic() - conn.idle_since_s > MAX_IDLE_S or _has_input(conn.sock)):
            conn.close()  # It connects anew when it is used.
        return conn


def _has_input(connection: socket.socket) -> bool:
    """Tells whether an idle connection has something to read, which can only be its end."""
    poll = _poll_class()()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


@cache
def _poll_class() -> Any:
    # gevent's poll() is made to wait and costs 50 µs; this is one system call that does not wait.
    from gevent.monkey import get_original

    return get_original("select", "poll")


class HttpsPool(HttpPool, HTTPSConnectionPool):
    """The same over TLS."""


POOL_CLASSES = {"http": HttpPool, "https": HttpsPool}


def was_reused(error: BaseException) -> bool:
    """Tells whether `error`, or one that it wraps, broke a connection that had served a request before."""
    seen: BaseException | None = error
    while seen is not None:
        if getattr(seen, "on_reused_connection", False):
            return True
        wrapped = next((arg for arg in seen.args if isinstance(arg, BaseException)), None)
        seen = wrapped or seen.__cause__ or seen.__context__
    return False
