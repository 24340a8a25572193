"""Reads the usual head of a request with one pattern; every other head is left to gunicorn's parser.

gunicorn checks a head in some fifteen steps and each field in ten more, and then builds the environ field by field. A
plain head has the same meaning to both parsers, which tests/server/test_request_head.py shows. Whether a head is plain
is decided before anything is taken from the connection, so gunicorn's parser gets all of its bytes.

A plain head is HTTP/1.1 with a usual method and a path, complete in the first piece that arrives and no longer than
gunicorn's limit for a single line. Its names have neither underscores nor repetitions, and no field changes how the
connection or the body is read: no Transfer-Encoding, Expect or Upgrade, and a Content-Length of digits.
"""

from __future__ import annotations

import io
import os
import re
import socket
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from gunicorn import util
from gunicorn.http import wsgi
from gunicorn.http.body import Body, LengthReader
from gunicorn.http.message import MAX_REQUEST_LINE, HeaderPolicy
from gunicorn.http.parser import RequestParser

from app.server.request_reading import get_unread_bytes
from app.server.response import BufferedResponse

# Each part ends at the first character that it cannot contain, and never backtracks (`*+`, `++`), so this takes linear
# time. Line ends are CRLF, since no part contains CR or LF. A target that begins with // may be read as a host name,
# and one with # has a fragment. Blanks may come only before a value, where they are stripped.
_PLAIN_HEAD = re.compile(
    r"(?:DELETE|GET|HEAD|OPTIONS|PATCH|POST|PUT) /(?!/)[!\"$-~]*+ HTTP/1\.1"
    r"(?:\r\n[!#$%&'*+\-.^`|~0-9A-Za-z]++:[\t\x20-\x7e\x80-\xff]*+(?<![\t ]))++"
)
# Longer numbers have leading zeros, or belong to a body that no limit allows.
_MAX_LENGTH_DIGITS = 15
# A client sends the same names with each request. The bound keeps strangers' names from filling the memory.
_MAX_REMEMBERED_NAMES = 1_000


class _EnvironKeys(dict[str, str]):
    """Header name as sent → its key in the environ."""

    def __missing__(self, name: str) -> str:
        key = name.upper().replace("-", "_")
        if key not in {"CONTENT_TYPE", "CONTENT_LENGTH"}:
            key = f"HTTP_{key}"
        if len(self) < _MAX_REMEMBERED_NAMES:
            self[name] = key
        return key


_environ_keys = _EnvironKeys()


class ReceivedBody(io.BytesIO):
    """A body that arrived completely with the head. It has the interface that the worker expects of gunicorn's body."""

    failed = False
    reader = LengthReader(None, 0)  # Nothing is left to read.


class PlainRequest:
    """A request with a plain head. It has the interface that gunicorn and the worker expect of gunicorn's `Request`.

    Attributes:
        unreader: the bytes of the connection.
        method: the HTTP method.
        uri: the target as it was sent.
        path: its path, still percent-encoded.
        query: its query without the question mark, or "".
        fields: environ key → value of each header.
        scheme: "http" or "https", as a trusted proxy says.
        body: the body.
        must_close: whether the connection is to be closed after the response.
        proxy_protocol_info: gunicorn sets it; such requests are not plain.
        shared: the part of the environ that all requests of the connection share, empty before the first.
    """

    __slots__ = (
        "body",
        "fields",
        "method",
        "must_close",
        "path",
        "proxy_protocol_info",
        "query",
        "scheme",
        "shared",
        "unreader",
        "uri",
    )
    version = (1, 1)
    fragment = ""

    def __init__(
        self, request_line: str, fields: dict[str, str], scheme: str, body: Any, unreader: Any, shared: dict[str, Any]
    ) -> None:
        self.method, self.uri, _ = request_line.split(" ")
        self.path, _, self.query = self.uri.partition("?")
        self.fields = fields
        self.scheme = scheme
        self.body = body
        self.unreader = unreader
        self.shared = shared
        self.must_close = "HTTP_CONNECTION" in fields and fields["HTTP_CONNECTION"].lower() == "close"
        self.proxy_protocol_info: Mapping[str, Any] | None = None

    @property
    def headers(self) -> list[tuple[str, str]]:
        """The headers, with their names in upper case."""
        return [(key.removeprefix("HTTP_").replace("_", "-"), value) for key, value in self.fields.items()]

    def force_close(self) -> None:
        """Makes the connection close after the response."""
        self.must_close = True

    def should_close(self) -> bool:
        """Returns whether the connection is to be closed after the response."""
        return self.must_close

    def make_environ(self, listener: Any, connection: socket.socket, peer: Any, response: Any) -> dict[str, Any]:
        """Returns the environ that gunicorn would build; `create` describes the parameters."""
        if not self.shared:
            self.shared |= wsgi.base_environ(response.cfg) | {
                "wsgi.multithread": True,
                "gunicorn.socket": connection,
                "SERVER_PROTOCOL": "HTTP/1.1",
                "SERVER_NAME": listener[0],
                "SERVER_PORT": str(listener[1]),
                "REMOTE_ADDR": peer[0],
                "REMOTE_PORT": str(peer[1]),
                "SCRIPT_NAME": "",
            }
        path = self.path
        return {
            **self.shared,
            **self.fields,
            "REQUEST_METHOD": self.method,
            "RAW_URI": self.uri,
            "PATH_INFO": util.unquote_to_wsgi_str(path) if "%" in path else path,
            "QUERY_STRING": self.query,
            "wsgi.url_scheme": self.scheme,
            "wsgi.input": self.body,
            "wsgi.early_hints": wsgi._make_early_hints_callback(self, connection, response),
        }


def create(
    req: Any, connection: socket.socket, peer: Any, listener: Any, cfg: Any
) -> tuple[BufferedResponse, dict[str, Any]]:
    """Returns the response to a request and its WSGI environ, as gunicorn's `wsgi.create` does.

    Args:
        req: a `PlainRequest`, or gunicorn's `Request`.
        connection: the connection.
        peer: the client's address and port.
        listener: address and port at which the worker listens.
        cfg: gunicorn's configuration.
    """
    if isinstance(req, PlainRequest):
        response = BufferedResponse(req, connection, cfg)
        return response, req.make_environ(listener, connection, peer, response)
    response, environ = wsgi.create(req, connection, peer, listener, cfg, BufferedResponse)
    environ["wsgi.multithread"] = True
    return response, environ


class _Limits(NamedTuple):
    """The limits on a plain head.

    Attributes:
        head_bytes: its length; 0 if no head is plain.
        fields: the number of its fields.
    """

    head_bytes: int
    fields: int


@lru_cache
def _find_limits(cfg: Any) -> _Limits:
    """Returns the limits on plain heads; zero with settings that change the meaning of a head.

    Args:
        cfg: gunicorn's configuration.
    """
    if cfg.is_ssl or cfg.proxy_protocol != "off" or "SCRIPT_NAME" in os.environ:
        return _Limits(0, 0)
    # gunicorn includes the line end in a field's length. Zero and less mean no limit, or another one.
    longest = min(cfg.limit_request_line, cfg.limit_request_field_size - len("\r\n"), MAX_REQUEST_LINE)
    return _Limits(max(0, longest), cfg.limit_request_fields)


class ConnectionParser(RequestParser):  # type: ignore[misc]
    """Reads the requests of one connection, in place of gunicorn's parser.

    Args:
        cfg: gunicorn's configuration.
        source: the connection.
        peer: the client's address and port; "" or bytes for a Unix socket, whose requests are never plain.
    """

    def __init__(self, cfg: Any, source: Any, peer: Any) -> None:
        super().__init__(cfg, source, peer)
        limits = _find_limits(cfg)
        self._max_head_bytes = limits.head_bytes if isinstance(peer, tuple) else 0
        self._max_fields = limits.fields
        self.mesg: Any = None
        self._shared: dict[str, Any] = {}
        policy = HeaderPolicy()
        policy.cfg, policy.peer_addr = cfg, peer
        # Environ key → the value that means https; empty unless the client is a trusted proxy.
        self._secure_values = {
            _environ_keys[name]: value
            for name, value in policy._peer_trusted_for_forwarded()[0].items()
            if "_" not in name and name.isupper()
        }

    def __next__(self) -> Any:
        """Returns the next request: a `PlainRequest`, or gunicorn's `Request`.

        Raises:
            StopIteration: there is none, or the connection must be closed.
            Exception: gunicorn's own, for input that is too long or not valid HTTP.
            OSError: the connection broke.
        """
        last = self.mesg
        if last is not None and (last.should_close() or (get_unread_bytes(last.body) and not self.finish_body())):
            raise StopIteration
        received = self.unreader.read()
        if not received:
            raise StopIteration
        self.req_count += 1
        request = self._read_plain(received)
        if request is None:
            self.unreader.unread(received)
            request = self.mesg_class(self.cfg, self.unreader, self.source_addr, self.req_count)
        self.mesg = request
        return request

    def _read_plain(self, received: bytes) -> PlainRequest | None:
        """Returns the request that these bytes begin with, if its head is plain. Otherwise the bytes stay unread."""
        end = received.find(b"\r\n\r\n", 0, self._max_head_bytes)
        if end < 0:
            return None
        head = received[:end].decode("latin-1")
        if _PLAIN_HEAD.fullmatch(head) is None:
            return None
        request_line, *lines = head.split("\r\n")
        fields = {}
        for line in lines:
            name, _, value = line.partition(":")
            fields[_environ_keys[name]] = value.strip("\t ")
        secure = [key for key in self._secure_values if key in fields]
        if not len(fields) == len(lines) <= self._max_fields or len(secure) > 1:
            return None
        if "HTTP_TRANSFER_ENCODING" in fields or "HTTP_EXPECT" in fields or "HTTP_UPGRADE" in fields:
            return None
        length = fields.get("CONTENT_LENGTH", "0")
        if not (length.isascii() and length.isdigit()) or len(length) > _MAX_LENGTH_DIGITS:
            return None
        scheme = "https" if secure and fields[secure[0]] == self._secure_values[secure[0]] else "http"
        body = self._take_body(received[end + len("\r\n\r\n") :], int(length))
        return PlainRequest(request_line, fields, scheme, body, self.unreader, self._shared)

    def _take_body(self, received: bytes, length: int) -> Any:
        """Returns the body of `length` bytes that begins with the bytes received after the head."""
        if len(received) < length:
            self.unreader.unread(received)
            return Body(LengthReader(self.unreader, length))
        if len(received) > length:
            self.unreader.unread(received[length:])
            received = received[:length]
        return ReceivedBody(received)
