"""Lets programs in browsers call the API (CORS): the preflight, and the headers of each response to a browser.

Only for paths that read no cookie. The program itself sends the key, so a web site that may call the gateway can do
nothing that its program could not do elsewhere.
"""

from __future__ import annotations

from app.runtime import get_settings
from app.web.application import Response, get_environ

_PATHS = ("/v1/", "/api/")
_ALLOWED_METHODS = "GET, POST, PATCH, DELETE"
_USUAL_HEADERS = "authorization, content-type"
# A day; browsers use less.
_MAX_AGE_S = "86400"

# Headers that a browser shows to every program, or to none.
_NOT_NAMED = frozenset({"cache-control", "content-length", "content-type", "vary"})


def answer_preflight() -> Response | None:
    """Returns the response to a browser's preflight, which has no key; None for any other request."""
    environ = get_environ()
    if "HTTP_ACCESS_CONTROL_REQUEST_METHOD" not in environ or "HTTP_ORIGIN" not in environ or not _is_for_browsers():
        return None
    response = Response(status=204)
    del response.headers["content-type"]
    # Any header is allowed: SDKs send many of their own, and a program that asks may send them elsewhere too.
    wanted = environ.get("HTTP_ACCESS_CONTROL_REQUEST_HEADERS") or _USUAL_HEADERS
    if _get_allowed_origin() is not None:
        response.headers["access-control-allow-methods"] = _ALLOWED_METHODS
        response.headers["access-control-allow-headers"] = wanted
        response.headers["access-control-max-age"] = _MAX_AGE_S
    return response


def add_cors_headers(response: Response) -> None:
    """Adds the headers with which a program in a browser may read `response`, if its site is allowed."""
    allows_all = "*" in get_settings().cors_origins
    if (allows_all and "HTTP_ORIGIN" not in get_environ()) or not _is_for_browsers():
        return
    if not allows_all:
        response.vary.add("origin")
    origin = _get_allowed_origin()
    if origin is None:
        return
    names = sorted({name.lower() for name in response.headers.keys()} - _NOT_NAMED)  # noqa: SIM118
    response.headers["access-control-allow-origin"] = origin
    if get_environ()["REQUEST_METHOD"] != "OPTIONS":
        response.headers["access-control-expose-headers"] = ", ".join(names)


def _get_allowed_origin() -> str | None:
    """Returns the value of `access-control-allow-origin` for the current request; None if its site is not allowed."""
    allowed = get_settings().cors_origins
    origin: str = get_environ().get("HTTP_ORIGIN", "")
    if "*" in allowed:
        return "*"
    return origin if origin.lower() in allowed else None


def _is_for_browsers() -> bool:
    path: str = get_environ()["PATH_INFO"]
    return path.startswith(_PATHS)
