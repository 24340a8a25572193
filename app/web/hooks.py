"""What every HTTP request goes through: a request id, the one error shape, one line in the log."""

from __future__ import annotations

import time

from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException

from app.db.errors import DatabaseError, describe_error
from app.errors import BadRequest, BodyTooLarge, GatewayError, MethodNotAllowed, NotFound, Unavailable
from app.logs import log_event
from app.runtime import get_settings
from app.services.journal.record import new_request_id


def set_up_http(app: Flask) -> None:
    """Attaches to `app` what every request goes through."""
    app.before_request(_begin)
    app.after_request(_finish)
    app.register_error_handler(Exception, _answer_error)


def _begin() -> None:
    g.started_s = time.monotonic()
    g.request_id = None  # Made when it is needed; a route that records activity takes that record's.


def _finish(response: Response) -> Response:
    if g.request_id is None:
        g.request_id = new_request_id()
        _log(response)
    response.headers["x-request-id"] = g.request_id
    return response


def _log(response: Response) -> None:
    # Routes that record activity write their line at the end of the answer, which for a stream is later than this.
    key = g.get("key")
    log_event(
        "request",
        request_id=g.request_id,
        key=key.id if key is not None else None,
        method=request.method,
        path=request.path[:500],
        status=response.status_code,
        duration_ms=(time.monotonic() - g.started_s) * 1000,
    )


def _answer_error(error: Exception) -> Response:
    """Turns whatever was raised into the one error shape."""
    if isinstance(error, HTTPException):
        shown, headers = _from_framework(error), dict(error.get_headers())
        allow = {"allow": headers["Allow"]} if "Allow" in headers else {}
    elif isinstance(error, GatewayError):
        shown, allow = error, {}
    elif isinstance(error, DatabaseError):
        reason = describe_error(error)[:300]
        log_event("database not answering", level="warning", reason=reason, path=request.path[:500])
        shown, allow = _database_away(), {}
    else:
        log_event("unexpected error", level="error", error=error, path=request.path[:500])
        shown, allow = GatewayError("The gateway failed on this request. Report the x-request-id to the operator."), {}
    headers = {**shown.headers(), **allow}
    return Response(shown.to_json(), status=shown.status, content_type="application/json", headers=headers)


def _database_away() -> GatewayError:
    # A restart of PostgreSQL takes some seconds, and its pool here is back at the next request.
    return Unavailable(
        "The gateway's database does not answer now. Retry in a few seconds; if it lasts, tell the operator.",
        code="database_unavailable",
        retry_after_s=5,
    )


def _from_framework(error: HTTPException) -> GatewayError:
    status = error.code or 500
    if status == 404:
        return NotFound(f"There is no {request.path[:200]!r} here. The README lists every path.", code="unknown_path")
    if status == 405:
        methods = ", ".join(sorted(getattr(error, "valid_methods", None) or ()))
        return MethodNotAllowed(f"{request.path[:200]!r} takes {methods}, not {request.method[:20]!r}.")
    if status == 413:
        return BodyTooLarge(f"The body is larger than {get_settings().max_body_bytes} bytes. Send less.")
    if 400 <= status < 500:
        return BadRequest(f"{error.description or error.name} Compare the request with the README.", status=status)
    return GatewayError("The gateway failed on this request. Report the x-request-id to the operator.", status=status)
