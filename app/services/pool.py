"""The connections to a provider: one TLS context for all of them, and none kept idle until the provider drops it."""

from __future__ import annotations

import ssl
import time
from functools import cache
from typing import Any

import certifi
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

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


class _IdleLimit:
    """Mixed into urllib3's pools: drops connections idle for too long, and marks failures of reused ones."""

    def _put_conn(self, conn: Any) -> None:
        if conn is not None:
            conn.idle_since_s = time.monotonic()
        super()._put_conn(conn)  # type: ignore[misc]

    def _get_conn(self, timeout: float | None = None) -> Any:
        conn = super()._get_conn(timeout)  # type: ignore[misc]
        idle_since_s = getattr(conn, "idle_since_s", None)
        if idle_since_s is not None and time.monotonic() - idle_since_s > MAX_IDLE_S:
            conn.close()  # It connects anew when it is used.
        return conn

    def _make_request(self, conn: Any, *args: Any, **kwargs: Any) -> Any:
        reused = conn.sock is not None
        try:
            return super()._make_request(conn, *args, **kwargs)  # type: ignore[misc]
        except Exception as error:
            error.on_reused_connection = reused  # type: ignore[attr-defined]
            raise


class HttpPool(_IdleLimit, HTTPConnectionPool):
    """Connections without TLS: the sandbox, a proxy on this machine."""


class HttpsPool(_IdleLimit, HTTPSConnectionPool):
    """Connections with TLS."""


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
