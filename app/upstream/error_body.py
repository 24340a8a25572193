"""Finds the message in the body of an error response. Providers and their edges use at least seven different shapes."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec


class ErrorBody(NamedTuple):
    """The fields of an error body; None if the body does not have one, as in an edge's HTML page.

    Attributes:
        message: what went wrong, in the provider's words.
        param: the request field at fault.
        code: the provider's code for the error.
        request_id: the provider's id for the request.
    """

    message: str | None = None
    param: str | None = None
    code: str | None = None
    request_id: str | None = None


def parse_error_body(content: bytes) -> ErrorBody:
    """Returns the fields of an error body in any of the known shapes."""
    try:
        body = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ErrorBody()
    if not isinstance(body, dict):
        return ErrorBody()
    return _parse_error(_find_error(body), body)._replace(request_id=_as_string(body.get("request_id")))


def _find_error(body: dict[str, Any]) -> Any:
    error = body.get("error") or body.get("detail") or body.get("fault") or body
    if isinstance(error, dict) and isinstance(error.get("error"), str | dict):
        return error["error"]  # DeepInfra nests {"detail": {"error": …}}.
    return error


def _parse_error(error: Any, body: dict[str, Any]) -> ErrorBody:
    if isinstance(error, list):
        return ErrorBody(_join_validation_errors(error))
    if isinstance(error, str):
        more = body.get("message")
        return ErrorBody(f"{error}: {more}" if isinstance(more, str) else error)
    if not isinstance(error, dict):
        return ErrorBody()
    message = error.get("message") or error.get("faultstring") or error.get("error_message")
    code = error.get("code")
    return ErrorBody(
        message=_as_string(message),
        param=_as_string(error.get("param")),
        code=str(code) if isinstance(code, str | int) else None,
    )


def _as_string(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _join_validation_errors(rows: list[Any]) -> str | None:
    """Returns one message for FastAPI's list of errors: `[{"loc": ["body", "x"], "msg": …}]`."""
    parts = []
    for row in rows[:10]:
        if isinstance(row, dict):
            steps = row.get("loc")
            where = ".".join(str(step) for step in steps if step != "body") if isinstance(steps, list) else ""
            parts.append(f"{where}: {row.get('msg')}" if where else str(row.get("msg")))
    return "; ".join(parts) or None
