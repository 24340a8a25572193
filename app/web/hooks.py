"""Hooks of every HTTP request: a request id, errors in the shape of the API, CORS, one line in the log."""

from __future__ import annotations

import time
from typing import Any

from flask import Flask, current_app, g, request
from werkzeug.exceptions import HTTPException

from app.db import DatabaseError, describe_error
from app.errors import FAILED, BadRequest, BodyTooLarge, GatewayError, MethodNotAllowed, NotFound, Unavailable
from app.logs import line_budget, log_event, set_request_id
from app.runtime import get_settings
from app.services.journal import make_request_id
from app.web.application import Response, get_state
from app.web.client_address import get_client_address
from app.web.cors import add_cors_headers, answer_preflight
from app.web.error_shapes import find_shape, find_shape_of_client
from app.web.missing_apis import describe_missing_api
from app.web.similar_path import find_similar_path

# Paths for checking whether the gateway is alive and ready, or for reading its metrics.
PROBES = frozenset({"/", "/api/hello", "/health", "/metrics", "/ready"})


def set_up_http(app: Flask) -> None:
    """Attaches the hooks to `app`."""
    app.before_request(_begin)
    app.after_request(_finish)
    app.register_error_handler(Exception, _make_error_response)


def _begin() -> Response | None:
    set_request_id(None)  # The greenlet may have served another request over this connection.
    return answer_preflight()


def use_request_id(request_id: str) -> None:
    """Gives the current request the id of its record."""
    get_state().request_id = request_id
    set_request_id(request_id)


def _finish(response: Response) -> Response:
    state = get_state()
    if state.request_id is None:
        state.request_id = state.early_request_id or make_request_id()
        _log(response)
    response.headers._list.append(("x-request-id", state.request_id))  # No response has this header yet.
    if state.ignored is not None:
        response.headers.add("x-gateway-ignored", state.ignored)
    add_cors_headers(response)
    return response


def _log(response: Response) -> None:
    # A request with a record is logged when it is finished, which for a stream is later than this.
    key, status = g.key, response.status_code
    if request.path in PROBES and (status < 400 or status == 503):
        return  # Load balancers ask every few seconds; the causes of an unready worker are logged elsewhere.
    if key is None and not line_budget.take():
        return
    # Shows the operator who tries keys, and the problem with the key, to find or to block that client.
    client: dict[str, Any] = {"error_code": g.error_code, "client": get_client_address()} if status == 401 else {}
    log_event(
        "request",
        level="error" if status == 500 else "warning" if status > 500 or status == 401 else "info",
        request_id=g.request_id,
        key=key.id if key is not None else None,
        method=request.method,
        path=request.path[:500],
        status=status,
        duration_ms=(time.monotonic() - g.started_s) * 1000,
        **client,
    )


def _make_error_response(error: Exception) -> Response:
    """Returns the error response for any exception, in the shape of the called API."""
    headers: dict[str, str] = {}
    if isinstance(error, HTTPException):
        shown = _translate_framework_error(error)
        headers = {name.lower(): value for name, value in error.get_headers() if name == "Allow"}
    elif isinstance(error, GatewayError):
        shown = error
    elif isinstance(error, DatabaseError):
        reason = describe_error(error)
        log_event(
            "database_access_failed",
            level="warning",
            reason=reason,
            path=request.path[:500],
            request_id=get_early_request_id(),
        )
        shown = _make_database_error()
    else:
        path, request_id = request.path[:500], get_early_request_id()
        log_event("request_failed", level="error", error=error, path=path, request_id=request_id)
        shown = GatewayError(FAILED)
    g.error_code = shown.code
    headers = {**shown.headers(), **headers}
    shape = find_shape(request.path[:500])
    if shape is None and shown.status == 404:
        shape = find_shape(find_similar_path(current_app.url_map, request.path))
    shape = shape or find_shape_of_client()
    if shape is None:
        return Response(shown.to_json(), status=shown.status, content_type="application/json", headers=headers)
    request_id = get_early_request_id()
    if shape.request_id_header is not None:
        headers[shape.request_id_header] = request_id
    body, status = shape.make_body(shown, request_id), shape.get_status(shown)
    return Response(body, status=status, content_type="application/json", headers=headers)


def get_early_request_id() -> str:
    """Returns the id that the response to the current request will have, for use before the response."""
    if g.request_id is not None:
        return str(g.request_id)
    if g.early_request_id is None:
        g.early_request_id = make_request_id()
    return str(g.early_request_id)


def _make_database_error() -> GatewayError:
    # A restart of PostgreSQL takes some seconds, and the connection pool recovers with the next request.
    return Unavailable(
        "The gateway's database is unavailable. Retry in a few seconds; if this persists, tell the operator.",
        code="database_unavailable",
        retry_after_s=5,
    )


def _make_unknown_path(path: str) -> NotFound:
    missing = describe_missing_api(path)
    if missing is not None:
        return NotFound(f"There is no path {path[:200]!r}. {missing}", code="api_not_offered")
    right = find_similar_path(current_app.url_map, path)
    hint = "GET /openapi.json and the pages at /docs/ list all paths."
    if right is not None:
        hint = f"Use {right!r}; the base URL of OpenAI's SDKs ends in /v1, and that of Anthropic's has no path."
    return NotFound(f"There is no path {path[:200]!r}. {hint}", code="unknown_path")


def _translate_framework_error(error: HTTPException) -> GatewayError:
    status = error.code or 500
    if status == 404:
        return _make_unknown_path(request.path)
    if status == 405:
        methods = ", ".join(sorted(getattr(error, "valid_methods", None) or ()))
        return MethodNotAllowed(f"{request.path[:200]!r} accepts {methods}, not {request.method[:20]!r}.")
    if status == 413:
        return BodyTooLarge(f"The body is larger than {get_settings().max_body_bytes} bytes. Send a smaller one.")
    if 400 <= status < 500:
        return BadRequest(f"{error.description or error.name} Compare the request with /docs/endpoints.", status=status)
    return GatewayError(FAILED, status=status)
