"""Flask without what a JSON API does not use: sessions, hosts, absolute URLs, and redirects to them.

They account for a third of Flask's cost per request. The caller chooses the Host header, so no route depends
on it. A path without parameters is looked up; only the others need werkzeug's search.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from flask import Flask, Request, Response
from flask.sessions import NullSession, SessionInterface
from werkzeug.routing import Map, MapAdapter, Rule

_NULL_SESSION = NullSession()


class _NoSessions(SessionInterface):
    """Gives every request the same read-only session."""

    def open_session(self, app: Flask, request: Request) -> NullSession:
        return _NULL_SESSION


class _Response(Response):
    """A response that sends its headers as they were set, without werkzeug's corrections, if its body is bytes."""

    def __call__(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        """Starts the WSGI response and returns the blocks of its body."""
        # Werkzeug sets the length of a body of bytes. Without one it may have to correct the headers, as for a 304.
        is_bytes = isinstance(self.response, list) and self.response and not self._on_close
        if not is_bytes or environ["REQUEST_METHOD"] == "HEAD":
            return super().__call__(environ, start_response)
        start_response(self.status, self.headers.to_wsgi_list())
        blocks: list[bytes] = self.response  # type: ignore[assignment]
        return blocks


class _Adapter(MapAdapter):
    """Finds the route of one request."""

    def match(self, *args: Any, **options: Any) -> Any:
        """Returns the rule and its arguments; `werkzeug.routing.MapAdapter.match` has the details."""
        rule = _find_plain_rules(self.map).get((self.path_info, self.default_method))
        if rule is None or args or options != {"return_rule": True}:
            return super().match(*args, **options)
        return rule, {}


@cache
def _find_plain_rules(url_map: Map) -> Mapping[tuple[str, str], Rule]:
    """Returns (path, method) → rule for the rules without parameters. Flask adds no rules after the first request."""
    plain = (rule for rule in url_map.iter_rules() if not rule.arguments and not rule.build_only)
    return {(rule.rule, method): rule for rule in plain for method in rule.methods or ()}


class Application(Flask):
    """The WSGI application; `app.create_app` registers its routes."""

    session_interface = _NoSessions()
    response_class = _Response

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """Returns an adapter that finds the route of a request by its method and path alone."""
        if request is None:
            return None
        return _Adapter(self.url_map, "gateway", "", "", "http", request.path, request.method)
