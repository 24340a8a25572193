"""Delivers a short message to an operator's address: one POST; only the status of the response counts."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

import gevent
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError, ReadTimeoutError, SSLError
from urllib3.util import Timeout

from app.upstream.connection_pool import make_pool
from app.upstream.http1 import USER_AGENT


def deliver(url: str, headers: Mapping[str, str], body: bytes, timeout_s: float) -> str | None:
    """Sends a JSON message on a connection of its own.

    Redirects are not followed, and the response's body is not read, however large it is.

    Args:
        url: the address; it may have a query.
        headers: further headers; they must not contain line ends.
        body: the message.
        timeout_s: the total time limit in seconds, from the name lookup to the head of the response. Without gevent's
            patches, as in the commands of `flask`, connecting and the response may take this long each.

    Returns:
        None if the receiver accepted it with a status of 2xx, else the reason, without any part of the address.
    """
    try:
        # A name that does not resolve, several addresses and a TLS handshake add up; only gevent can bound them
        # together.
        with gevent.Timeout(timeout_s):
            status = _post(url, headers, body, timeout_s)
    except gevent.Timeout:
        return f"no answer within {timeout_s:g} s"
    except (HTTPError, OSError, ValueError) as error:
        return _describe(error, timeout_s)
    if 200 <= status < 300:
        return None
    return f"answered {status}" + (", a redirect, which is not followed" if 300 <= status < 400 else "")


def _post(url: str, headers: Mapping[str, str], body: bytes, timeout_s: float) -> int:
    parts = urlsplit(url)
    all_headers = {
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "User-Agent": USER_AGENT,
        "Connection": "close",
        **headers,
    }
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    pool = make_pool(url)
    try:
        response = pool.urlopen("POST", target, body, all_headers, Timeout(connect=timeout_s, read=timeout_s))
        response.release(reusable=False)
    finally:
        pool.close()
    return response.head.status


def _describe(error: Exception, timeout_s: float) -> str:
    if isinstance(error, NewConnectionError):  # Checked before the timeout, which is its base class.
        return "cannot connect"
    if isinstance(error, ConnectTimeoutError | ReadTimeoutError):
        return f"no answer within {timeout_s:g} s"
    if isinstance(error, SSLError):
        return "no secure connection, because of the certificate or TLS"
    return "the connection broke before the answer"
