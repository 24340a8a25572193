"""Errors in the shape of Anthropic's API, in responses and in streams.

Agents act on status and type: they take a 401 for their own key, compact the conversation if a prompt is too long, wait
for 429 and 5xx, and show the rest to their user. So the gateway's own failures are `api_error` here.
"""

from __future__ import annotations

import re

from app.errors import (
    ConfigurationMissing,
    GatewayError,
    Unavailable,
    UpstreamAuthenticationFailed,
    UpstreamError,
    UpstreamSuspended,
)
from app.lenient_json import encode
from app.services.endpoints.endpoint import ErrorShape

_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}

# Texts with the prompt's and the context's tokens, from Fireworks, vLLM, SGLang and newer versions of vLLM.
_COUNTS = (
    re.compile(r"too long:?\s*(?P<prompt>\d[\d,]*)\D.{0,60}?context length\D{0,10}(?P<most>\d[\d,]*)", re.DOTALL),
    re.compile(
        r"context (?:length|window)\D{0,30}(?P<most>\d[\d,]*).{0,80}?(?:requested|resulted in|has|contains)\D{0,30}"
        r"(?P<prompt>\d[\d,]*)",
        re.DOTALL,
    ),
    re.compile(r"(?P<prompt>\d[\d,]*) tokens?.{0,80}?(?:context|maximum)\D{0,40}(?P<most>\d[\d,]*)", re.DOTALL),
    re.compile(r"length (?P<prompt>\d[\d,]*)\D.{0,60}?model length\D{0,10}(?P<most>\d[\d,]*)", re.DOTALL),
)


def _get_status(error: GatewayError) -> int:
    if isinstance(error, UpstreamAuthenticationFailed | UpstreamSuspended):
        return 502
    if isinstance(error, ConfigurationMissing):
        return 500
    if isinstance(error, Unavailable) or (isinstance(error, UpstreamError) and error.status == 503):
        return 529  # Anthropic's own status for an overload.
    return 400 if error.status == 422 and isinstance(error, UpstreamError) else error.status


def _get_type(status: int) -> str:
    if status in _TYPES:
        return _TYPES[status]
    return "api_error" if status >= 500 else "invalid_request_error"


def _get_message(error: GatewayError) -> str:
    """Returns the error's message; for a prompt that is too long, in the words by which agents recognise it."""
    if error.code != "context_length_exceeded":
        return error.message
    for pattern in _COUNTS:
        if (match := pattern.search(error.message)) is not None:
            prompt, most = match["prompt"].replace(",", ""), match["most"].replace(",", "")
            return f"prompt is too long: {prompt} tokens > {most} maximum"
    return f"prompt is too long: {error.message}"


def make_error_body(error: GatewayError, request_id: str | None = None) -> bytes:
    """Returns an error as JSON in Anthropic's shape."""
    shown = {"type": _get_type(_get_status(error)), "message": _get_message(error)}
    own = {} if request_id is None else {"request_id": request_id}
    return encode({"type": "error", "error": shown, **own})


def make_error_event(error: GatewayError, request_id: str | None = None) -> bytes:
    """Returns an error as a Server-Sent Event, for which Anthropic's SDKs raise an exception."""
    return b"event: error\ndata: " + make_error_body(error, request_id) + b"\n\n"


ANTHROPIC_ERRORS = ErrorShape(make_error_body, make_error_event, _get_status, "request-id", "anthropic-version")
