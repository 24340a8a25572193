"""Flask less what a JSON API has no use for: sessions, hosts, absolute URLs, and redirects to them.

They are a third of what Flask costs a request; and a request's host is what a caller wrote, so nothing hangs on it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flask import Flask, Request, Response
from flask.sessions import NullSession, SessionInterface
from werkzeug.routing import MapAdapter

_NULL_SESSION = NullSession()


class _NoSessions(SessionInterface):
    """Hands out the one session that nobody can write to."""

    def open_session(self, app: Flask, request: Request) -> NullSession:
        return _NULL_SESSION


class _Response(Response):
    """Answers with its headers as they are."""

    def __call__(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        """Begins the answer of a WSGI request and returns its body's blocks."""
        # Whoever sets bytes sets their length; an answer without any may still need its headers put right, as 304 does.
        is_bytes = isinstance(self.response, list) and self.response and not self._on_close
        if not is_bytes or environ["REQUEST_METHOD"] == "HEAD":
            return super().__call__(environ, start_response)
        start_response(self.status, self.headers.to_wsgi_list())
        blocks: list[bytes] = self.response  # type: ignore[assignment]
        return blocks


class Application(Flask):
    """The WSGI application that `app.create_app` fills with routes."""

    session_interface = _NoSessions()
    response_class = _Response

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """Returns what finds the route of a request, by its method and path alone."""
        if request is None:
            return None
        return MapAdapter(self.url_map, "gateway", "", "", "http", request.path, request.method)
