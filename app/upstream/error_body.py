"""Extracts the message from the body of an error response. Providers and their edges use at least seven shapes.

Some send errors with status 200; then the error's code, status or type describes the failure.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from app.lenient_json import decode_leniently, replace_surrogates


class ErrorBody(NamedTuple):
    """The fields of an error body; None for a missing one, as in an edge's HTML page.

    Attributes:
        message: the provider's description of the failure.
        param: the request field at fault.
        code: the provider's code for the error.
        request_id: the provider's id for the request.
        status: the HTTP status that the error names or that its type implies; None without one.
    """

    message: str | None = None
    param: str | None = None
    code: str | None = None
    request_id: str | None = None
    status: int | None = None


# HTTP statuses by type or code: OpenAI's, Anthropic's, vLLM's (the names of OpenAI's Python classes) and gRPC's, in
# lower case without separators and without "error" at the end.
_STATUSES = {
    "invalidrequest": 400,
    "badrequest": 400,
    "invalidargument": 400,
    "failedprecondition": 400,
    "contextlengthexceeded": 400,
    "invalidparameter": 400,
    "authentication": 401,
    "unauthenticated": 401,
    "unauthorized": 401,
    "invalidapikey": 401,
    "insufficientquota": 402,
    "billing": 402,
    "permission": 403,
    "permissiondenied": 403,
    "forbidden": 403,
    "notfound": 404,
    "modelnotfound": 404,
    "requesttoolarge": 413,
    "unprocessableentity": 422,
    "ratelimit": 429,
    "ratelimitexceeded": 429,
    "toomanyrequests": 429,
    "resourceexhausted": 429,
    "server": 500,
    "internalserver": 500,
    "internal": 500,
    "api": 500,
    "overloaded": 503,
    "unavailable": 503,
    "serviceunavailable": 503,
    "timeout": 504,
    "deadlineexceeded": 504,
}


# Fields that mark a document as an error and not a response.
_ERROR_FIELDS = ("detail", "fault", "errors", "error_msg", "error_message")

# Fields that hold the message of an error, in order of preference.
_MESSAGE_FIELDS = ("message", "faultstring", "error_message", "error_msg", "msg")


def reports_error(document: Any) -> bool:
    """Returns whether a JSON document is an error and not a response, whatever its HTTP status.

    An `error` without content (null, false, `{}`, `""`) does not count, unless there is a message beside it. A list of
    one element is treated as that element.
    """
    document = _unwrap(document)
    if not isinstance(document, dict):
        return False
    if _has_content(document.get("error")) or document.get("object") == "error" or document.get("type") == "error":
        return True
    if "choices" in document:
        return False
    return any(_has_content(document.get(name)) for name in _ERROR_FIELDS) or _is_flat_error(document)


def _unwrap(document: Any) -> Any:
    return document[0] if isinstance(document, list) and len(document) == 1 else document


def _is_flat_error(document: dict[str, Any]) -> bool:
    """Returns whether an object has a message and a sign of an error, but no enclosing `error`."""
    if not any(isinstance(document.get(name), str) for name in ("message", "msg")):
        return False
    return "error" in document or any(document.get(name) for name in ("code", "status", "status_code"))


def _has_content(value: Any) -> bool:
    return any(value.values()) if isinstance(value, dict) else bool(value)


def parse_error_body(content: bytes) -> ErrorBody:
    """Returns the fields of an error body in any of the known shapes."""
    try:
        return read_error_body(decode_leniently(content))
    except ValueError:
        return ErrorBody()


def read_error_body(body: Any) -> ErrorBody:
    """Returns the fields of an error body given as JSON values."""
    body = _unwrap(body)
    if not isinstance(body, dict):
        return ErrorBody()
    error = _find_error(body)
    return _parse_error(error, body)._replace(
        request_id=_as_string(body.get("request_id")), status=_find_status(error) or _find_status(body)
    )


def _find_status(error: Any) -> int | None:
    if not isinstance(error, dict):
        return None
    for name in ("code", "status", "status_code"):
        value = error.get(name)
        # `true` is not between these numbers, so it needs no check of its own.
        status = int(value) if isinstance(value, str) and len(value) == 3 and value.isdecimal() else value
        if isinstance(status, int | float) and 400 <= status < 600 and status == int(status):
            return int(status)
    for name in ("code", "status", "type"):
        value = error.get(name)
        if isinstance(value, str) and (known := _STATUSES.get(_simplify(value))) is not None:
            return known
    return None


def _simplify(name: str) -> str:
    return name[:100].lower().replace("_", "").replace("-", "").replace(" ", "").removesuffix("error")


def _find_error(body: dict[str, Any]) -> Any:
    error = body.get("error") or body.get("detail") or body.get("fault") or _unwrap(body.get("errors")) or body
    if isinstance(error, dict) and isinstance(error.get("error"), str | dict):
        return error["error"]  # DeepInfra nests {"detail": {"error": …}}.
    return error


def _parse_error(error: Any, body: dict[str, Any]) -> ErrorBody:
    if isinstance(error, list):
        return ErrorBody(_as_string(_join_validation_errors(error)))
    if isinstance(error, str):
        more = body.get("message")
        return ErrorBody(_as_string(f"{error}: {more}" if isinstance(more, str) else error))
    if not isinstance(error, dict):
        return ErrorBody()
    message = next((error[name] for name in _MESSAGE_FIELDS if error.get(name)), None)
    code = error.get("code")
    return ErrorBody(
        message=_as_string(message),
        param=_as_string(error.get("param")),
        code=_as_string(str(code)) if isinstance(code, str | int) else None,
    )


def _as_string(value: Any) -> str | None:
    return replace_surrogates(value) if isinstance(value, str) else None


def _join_validation_errors(rows: list[Any]) -> str | None:
    """Returns one message for a list of texts, or FastAPI's list of errors: `[{"loc": ["body", "x"], "msg": …}]`."""
    if all(isinstance(row, str) for row in rows):
        return "; ".join(rows[:10]) or None
    parts = []
    for row in rows[:10]:
        if isinstance(row, dict):
            steps = row.get("loc")
            where = ".".join(str(step) for step in steps[:20] if step != "body") if isinstance(steps, list) else ""
            message = row.get("msg") or row.get("message")
            parts.append(f"{where}: {message}" if where else str(message))
    return "; ".join(parts) or None
