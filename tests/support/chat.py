"""Sends chat requests as clients do, reads responses and streams, and reads activity rows from PostgreSQL."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg2
import psycopg2.extras
import requests

from tests.support.gateway import Gateway
from tests.support.waiting import PATIENCE_S, wait_until

PREFIX = "accounts/fireworks/models/"
HELLO = [{"role": "user", "content": "Hello!"}]
# Generous, because it only bounds a hang and is no measure of speed.
TIMEOUT_S = 30.0


@dataclass
class Seen:
    """One response as a client received it.

    Attributes:
        headers: by lower-case name.
        cut: whether the transfer ended before the response was complete.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    cut: bool = False
    events: list[bytes] = field(init=False)

    def __post_init__(self) -> None:
        # The parts between blank lines: each event's data with its field name.
        self.events = [part for part in self.body.replace(b"\r\n", b"\n").split(b"\n\n") if part]

    @property
    def json(self) -> Any:
        """The parsed body or, for a stream, the parsed data of the last event."""
        return json.loads(self.events[-1].removeprefix(b"data: "))

    @property
    def error(self) -> dict[str, Any]:
        """The error in the body or in the last event of a stream; {} if there is none."""
        last = self.events[-1] if self.events else b""
        return self.json.get("error") or {} if last.removeprefix(b"data: ").startswith(b"{") else {}

    @property
    def request_id(self) -> str:
        """The gateway's id of the request."""
        return self.headers["x-request-id"]


def chat_body(model: str, **more: Any) -> dict[str, Any]:
    """Returns the body of a chat request."""
    return {"model": model, "messages": HELLO} | more


def post_chat(gateway: Gateway, model: str, *, key: str | None = None, **more: Any) -> Seen:
    """Sends a chat request with further fields, streamed or not, and reads the response until it ends or is cut."""
    return post(gateway, json.dumps(chat_body(model, **more)).encode(), key=key)


def post(
    gateway: Gateway, content: bytes | Iterator[bytes], *, key: str | None = None, headers: Mapping[str, str] = {}
) -> Seen:
    """Sends any body to the chat endpoint."""
    sent = {"Authorization": f"Bearer {key or gateway.key}", "Content-Type": "application/json"} | dict(headers)
    return request("POST", f"{gateway.url}/v1/chat/completions", headers=sent, data=content)


def request(method: str, url: str, **more: Any) -> Seen:
    """Sends any request and reads the response until it ends or is cut."""
    pieces: list[bytes] = []
    cut = False
    with requests.Session() as session:
        session.trust_env = False
        with session.request(method, url, stream=True, timeout=TIMEOUT_S, allow_redirects=False, **more) as response:
            try:
                pieces.extend(response.iter_content(None))
            except requests.exceptions.ChunkedEncodingError:
                cut = True
            headers = {name.lower(): value for name, value in response.headers.items()}
            return Seen(response.status_code, headers, b"".join(pieces), cut)


@contextmanager
def open_chat(gateway: Gateway, model: str, *, stream: bool = True, **more: Any) -> Iterator[socket.socket]:
    """Sends a chat request over a bare socket, which is closed at the end of the block."""
    body = json.dumps(chat_body(model, stream=stream, **more)).encode()
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=PATIENCE_S) as connection:
        connection.sendall(request_head(gateway, len(body)) + body)
        yield connection


def request_head(gateway: Gateway, content_length: int) -> bytes:
    """Returns the head of a chat request whose body has that many bytes."""
    return (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {gateway.key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {content_length}\r\n\r\n"
    ).encode()


def read_until(connection: socket.socket, marker: bytes) -> bytes:
    """Receives until `marker` has arrived, and returns everything received."""
    data = b""
    while marker not in data:
        piece = connection.recv(65_536)
        assert piece, f"the connection ended before {marker!r}: {data!r}"
        data += piece
    return data


def rows_where(database_url: str, column: str, value: object) -> list[dict[str, Any]]:
    """Returns the activity rows with `value` in `column`, oldest first.

    Raises:
        psycopg2.OperationalError: the database is unavailable.
    """
    with _LOCK:
        try:
            return _select_rows(database_url, column, value)
        except psycopg2.Error:
            # The server was restarted, or the database dropped, since the connection was made.
            _disconnect()
            return _select_rows(database_url, column, value)


def _select_rows(database_url: str, column: str, value: object) -> list[dict[str, Any]]:
    cursor = _connect(database_url).cursor(cursor_factory=psycopg2.extras.RealDictCursor)
    cursor.execute(f"SELECT * FROM activity WHERE {column} = %s ORDER BY started_at", (value,))
    return [dict(row) for row in cursor.fetchall()]


def _connect(database_url: str) -> Any:
    """Returns the connection of the last call if that was for the same database, else a new one.

    A test that waits for a row polls many times, and each connection costs PostgreSQL a process.
    """
    if _connections.get(database_url) is None:
        _disconnect()
        _connections[database_url] = psycopg2.connect(database_url.replace("+psycopg2", ""), connect_timeout=10)
        _connections[database_url].autocommit = True
    return _connections[database_url]


def _disconnect() -> None:
    while _connections:
        _connections.popitem()[1].close()


_LOCK = threading.Lock()
# Database address → connection; at most one.
_connections: dict[str, Any] = {}


def wait_for_row(database_url: str, request_id: str) -> dict[str, Any]:
    """Returns the one activity row of a request, waiting until it is there."""
    rows = wait_until(lambda: rows_where(database_url, "request_id", request_id), what=f"the row of {request_id}")
    assert len(rows) == 1
    return rows[0]


def wait_for_row_of(database_url: str, model: str) -> dict[str, Any]:
    """Returns the one activity row of a model name that a test used once, waiting until it is there."""
    rows = wait_until(lambda: rows_where(database_url, "model_requested", model), what=f"the row of {model}")
    assert len(rows) == 1
    return rows[0]
