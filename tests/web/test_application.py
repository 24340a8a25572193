"""The application's calls for a request, their order, and the handling of a failure in any of them."""

from __future__ import annotations

import gc
import weakref

import flask
import pytest
from flask import Blueprint, Request, g, request
from werkzeug.test import EnvironBuilder

from app.web import Application, Response
from app.web.application import _Request


@pytest.fixture
def calls() -> list[str]:
    return []


def note(calls: list[str], name: str) -> None:
    """Notes a call, and fails if the request says so: `?fail=<name>`."""
    calls.append(name)
    if request.args.get("fail") == name:
        raise LookupError(name)


def make_views(calls: list[str]) -> Blueprint:
    """Returns a blueprint with two views that note their calls."""
    views = Blueprint("views", "views")

    @views.get("/text")
    def get_text() -> Response:
        note(calls, "view")
        return Response(b"text")

    @views.get("/objects/<name>")
    def get_object(name: str) -> dict[str, str]:
        note(calls, "view")
        return {"name": name}

    return views


@pytest.fixture
def application(calls: list[str]) -> Application:
    """An application with hooks, views and an error handler that note their calls."""
    app = Application("application", static_folder=None)

    def check() -> Response | None:
        note(calls, "check")
        return Response(b"stopped", status=401) if "stop" in request.args else None

    def finish(response: flask.Response) -> flask.Response:
        note(calls, "finish")
        assert g.started_s > 0 and g.request_id is None and g.key is None
        return response

    def handle(error: Exception) -> Response:
        note(calls, f"handler of {type(error).__name__}")
        return Response(b"handled", status=500)

    app.before_request(lambda: note(calls, "begin"))
    app.after_request(finish)
    app.register_error_handler(Exception, handle)
    app.register_blueprint(make_views(calls))
    app.register_blueprint(Blueprint("others", "others"))
    app.before_request_funcs["views"].append(check)
    app.before_request_funcs["others"].append(lambda: note(calls, "check of another blueprint"))
    return app


@pytest.mark.parametrize(
    ("path", "status", "body", "expected"),
    [
        ("/text", 200, b"text", ["begin", "check", "view", "finish"]),
        ("/objects/a", 200, b'{"name":"a"}\n', ["begin", "check", "view", "finish"]),
        ("/text?stop", 401, b"stopped", ["begin", "check", "finish"]),
        ("/nowhere", 500, b"handled", ["begin", "handler of NotFound", "finish"]),
        ("/text?fail=begin", 500, b"handled", ["begin", "handler of LookupError", "finish"]),
        ("/text?fail=check", 500, b"handled", ["begin", "check", "handler of LookupError", "finish"]),
        ("/text?fail=view", 500, b"handled", ["begin", "check", "view", "handler of LookupError", "finish"]),
    ],
)
def test_hooks_view_and_error_handler_are_called_in_order(
    application: Application, calls: list[str], path: str, status: int, body: bytes, expected: list[str]
) -> None:
    seen = application.test_client().get(path)
    assert (seen.status_code, seen.data, calls) == (status, body, expected)
    assert not flask.has_request_context() and not flask.has_app_context()


def test_a_hook_that_fails_after_the_view_becomes_a_response(application: Application, calls: list[str]) -> None:
    seen = application.test_client().get("/text?fail=finish")
    assert (seen.status_code, seen.data) == (500, b"handled")
    assert calls == ["begin", "check", "view", "finish", "handler of InternalServerError", "finish"]


def test_an_error_that_became_a_response_keeps_nothing_of_the_request(application: Application) -> None:
    bodies: list[weakref.ref[Body]] = []

    @application.get("/fails")
    def fail() -> Response:
        body = Body()
        bodies.append(weakref.ref(body))
        error = LookupError("This frame, and the body in it, is in the error's traceback.")
        try:
            raise OSError
        except OSError as cause:
            raise error from cause

    gc.disable()  # Without the collector, objects in a reference cycle stay.
    try:
        assert application.test_client().get("/fails").data == b"handled"
        assert [body() for body in bodies] == [None]
    finally:
        gc.enable()


class Body:
    """An object that a request refers to."""


@pytest.mark.parametrize("body", [b"abc", b"", iter([b"block"])])
def test_a_response_is_what_werkzeug_makes_of_the_same(body: bytes) -> None:
    made, constructed = Response.make(body, "text/x"), Response(body, content_type="text/x")
    constructed.direct_passthrough = not isinstance(body, bytes)
    assert vars(made) == vars(constructed)


@pytest.mark.parametrize("path", ["/a", "//a/b", "/\u00fc/\u20ac", "/%ff", ""])
def test_a_request_has_what_werkzeugs_has(path: str) -> None:
    environ = EnvironBuilder(path, query_string="a=b", headers={"X-A": "1"}).get_environ()
    ours, theirs = _Request(environ), Request(environ, populate_request=False)
    assert set(vars(ours)) < set(vars(theirs))  # Missing attributes are made at their first access.
    assert {name: getattr(ours, name) for name in vars(theirs)} == vars(theirs)
    assert (ours.url, ours.args, ours.url_rule, ours.is_json) == (theirs.url, theirs.args, None, False)
    with pytest.raises(AttributeError, match="no attribute 'other'"):
        _ = ours.other
