"""Flask without the parts that a JSON API does not use: sessions, signals, asynchronous views, hosts, redirects.

These parts account for half of Flask's cost per request. The caller chooses the Host header, so no route depends on it.
A path without parameters is looked up in a table; only other paths need werkzeug's search.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

import flask
from flask import Flask, Request
from flask.ctx import RequestContext
from flask.globals import _cv_app, _cv_request
from werkzeug.datastructures import Headers
from werkzeug.routing import Map, MapAdapter, PathConverter, Rule, UnicodeConverter

from app.errors import drop_frames
from app.services.keys import Key


class RequestState:
    """The state of the current request for hooks, access checks and views: Flask's `g`.

    Attributes:
        started_s: when it began, on the monotonic clock.
        request_id: the id of its record; None for a request without one, until its response is sent.
        early_request_id: the id that a request without a record will have, if it was needed earlier.
        key: the caller's gateway key; None if the route requires none.
        error_code: the code of the error in the response; None without one.
        ignored: the names of headers that have no effect, for `x-gateway-ignored`; None without any.
    """

    __slots__ = ("early_request_id", "error_code", "ignored", "key", "request_id", "started_s")

    def __init__(self) -> None:
        self.started_s = time.monotonic()
        self.request_id: str | None = None
        self.early_request_id: str | None = None
        self.key: Key | None = None
        self.error_code: str | None = None
        self.ignored: str | None = None


def get_state() -> RequestState:
    """Returns Flask's `g` itself; each use of the proxy takes three or four calls to find it."""
    return _cv_app.get().g  # type: ignore[return-value]


def get_environ() -> dict[str, Any]:
    """Returns the WSGI environ of the current request, likewise without Flask's proxy."""
    return _cv_request.get().request.environ


class Response(flask.Response):
    """A response that sends its headers as they were set, without werkzeug's corrections, if it has a body.

    Attributes:
        shared_headers: headers that other responses share, in the same object, which the server encodes once.
    """

    shared_headers: Mapping[str, str] | None = None

    @classmethod
    def make(cls, body: bytes | Iterable[bytes], content_type: str) -> Response:
        """Returns a response with status 200, without werkzeug's checks of known facts: 14 calls less.

        Args:
            body: the whole body, or the blocks of a stream. A stream is passed through, so that the server iterates
                over it directly, without a wrapper.
            content_type: the value of that header.
        """
        response = cls.__new__(cls)
        headers = response.headers = Headers()
        headers._list.append(("Content-Type", content_type))
        response._status, response._status_code = "200 OK", 200
        response._on_close = []
        response.direct_passthrough = not isinstance(body, bytes)
        if isinstance(body, bytes):
            headers._list.append(("Content-Length", str(len(body))))
            response.response = [body]
        else:
            response.response = body
        return response

    def add_headers(self, headers: Mapping[str, str]) -> None:
        """Adds headers that are not set yet, without werkzeug's check of each one.

        The server checks all of them at once when it sends them, and werkzeug's checks take 2 µs for each. Headers that
        werkzeug sets itself come first, because it compares their names with those of all existing ones.
        """
        self.headers._list += headers.items()

    def __call__(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        """Starts the WSGI response and returns the blocks of its body."""
        # Werkzeug sets the length of a body of bytes. Without a body it may have to correct the headers, as for a 304.
        has_body = self.direct_passthrough or (isinstance(self.response, list) and self.response)
        shared = self.shared_headers
        if shared is not None:
            # A server that does not know shared headers gets them together with all others.
            add = getattr(getattr(start_response, "__self__", None), "add_shared_headers", self.add_headers)
            add(shared)
        if not has_body or self._on_close or environ["REQUEST_METHOD"] == "HEAD":
            return super().__call__(environ, start_response)
        start_response(self._status, list(self.headers._list))
        blocks: Iterable[bytes] = self.response  # type: ignore[assignment]
        return blocks


class _Request(Request):
    """A request that at first reads only the parts of its environ that routing needs.

    The other attributes that werkzeug sets (`headers`, `remote_addr`, `scheme`, ...) are created at the first access to
    one of them. An inference request needs none.
    """

    def __init__(self, environ: dict[str, Any]) -> None:
        self.environ, self.shallow = environ, False
        self.method = environ["REQUEST_METHOD"].upper()
        # The environ has the bytes of a path as Latin-1, and most are ASCII, which is the same in UTF-8.
        path: str = environ.get("PATH_INFO", "")
        if not path.isascii():
            path = path.encode("latin-1").decode(errors="replace")
        self.path = "/" + path.lstrip("/")

    def __getattr__(self, name: str) -> Any:
        if name not in _OTHER_ATTRIBUTES:
            raise AttributeError(f"a request has no attribute {name!r}")
        super().__init__(self.environ, populate_request=False)
        return self.__dict__[name]


_OTHER_ATTRIBUTES = frozenset({"headers", "query_string", "remote_addr", "root_path", "scheme", "server"})


class _Context(RequestContext):
    """Flask's request context, without the parts for sessions and for the search for a route."""

    def __init__(self, app: Application, environ: dict[str, Any]) -> None:
        self.app, self.request = app, _Request(environ)
        self.flashes = self._session = None
        self._after_request_functions, self._cv_tokens = [], []

    @property
    def url_adapter(self) -> MapAdapter | None:  # type: ignore[override]
        """The adapter that finds routes and builds URLs; created at its first use."""
        return self.app.create_url_adapter(self.request)

    def match_request(self) -> None:
        """Finds the route of the request: for a path without parameters in a table, else as Flask does."""
        request = self.request
        rule = _find_plain_rules(self.app.url_map).get((request.path, request.method))
        if rule is None:
            super().match_request()
        else:
            request.url_rule, request.view_args = rule, {}


@cache
def _find_plain_rules(url_map: Map) -> Mapping[tuple[str, str], Rule]:
    """Returns (path, method) → rule for the rules without parameters. Flask adds no rules after the first request."""
    plain = (rule for rule in url_map.iter_rules() if not rule.arguments and not rule.build_only)
    return {(rule.rule, method): rule for rule in plain for method in rule.methods or ()}


class _Text(UnicodeConverter):
    """A part of a path. A path with NUL is unknown, because no name or id in the database can contain NUL."""

    part_isolating = True

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.regex = self.regex.replace("[^/]", r"[^/\0]")


class _Path(PathConverter):
    """The rest of a path, likewise."""

    part_isolating = False
    regex = r"[^/\0][^\0]*?"


class _Rule(Rule):
    """A route that finds views but builds no URLs, because pages link to relative addresses.

    For URLs, werkzeug would compile two functions for each route, which takes each worker 30 ms at the start.
    """

    @staticmethod
    def _compile_builder(append_unknown: bool = True) -> Callable[..., tuple[str, str]]:
        return _refuse_to_build


def _refuse_to_build(rule: Rule, **_values: Any) -> tuple[str, str]:
    raise NotImplementedError(f"URLs are not made from routes, such as {rule.rule}. Write the relative address.")


class Application(Flask):
    """The WSGI application; `app.create_app` registers its routes."""

    app_ctx_globals_class = RequestState  # type: ignore[assignment]
    response_class = Response
    url_rule_class = _Rule

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.url_map.converters |= {"default": _Text, "string": _Text, "path": _Path}

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """Returns an adapter that finds the route of a request by its method and path alone."""
        if request is None:
            return None
        return MapAdapter(self.url_map, "gateway", "", "", "http", request.path, request.method)

    def wsgi_app(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Serves one request.

        The steps and their order are Flask's. Its own method takes twice as long: it also opens a session, sends six
        signals, looks for functions to call at the end, and checks whether each hook and view is asynchronous.
        """
        context = _Context(self, environ)
        # The variables behind `current_app`, `g` and `request`. The contexts' own `push` would open a session.
        app_token, token = _cv_app.set(self.app_context()), _cv_request.set(context)
        try:
            return self._respond(context)(environ, start_response)
        finally:
            _cv_request.reset(token)
            _cv_app.reset(app_token)

    def _respond(self, context: RequestContext) -> flask.Response:
        """Returns the response to a request, even if a hook, the view or an error handler fails."""
        try:
            try:
                context.match_request()
                response = self._call_view(context.request)
            except Exception as error:
                response = self.handle_user_exception(error)
                drop_frames(error)
            if not isinstance(response, Response):
                response = self.make_response(response)
            return self.process_response(response)
        except Exception as error:
            return self.handle_exception(error)

    def _call_view(self, request: Request) -> Any:
        """Calls the hooks of the application and of the route's blueprint, and then the view, until one responds."""
        rule = request.url_rule
        blueprint = "" if rule is None else rule.endpoint.rpartition(".")[0]
        for hook in (*self.before_request_funcs[None], *self.before_request_funcs.get(blueprint, ())):
            response = hook()
            if response is not None:
                return response
        if rule is None:
            self.raise_routing_exception(request)
        if request.method == "OPTIONS" and getattr(rule, "provide_automatic_options", False):
            return self.make_default_options_response()
        return self.view_functions[rule.endpoint](**(request.view_args or {}))

    def process_response(self, response: flask.Response) -> flask.Response:
        """Returns the response after the application's hooks. Flask's own method also saves a session."""
        for hook in self.after_request_funcs[None]:
            response = hook(response)  # type: ignore[assignment]
        return response
