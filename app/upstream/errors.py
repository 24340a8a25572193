"""Converts failures at a provider into the errors that the caller gets.

An error response is classified by its HTTP status alone: one provider sends the `type` `invalid_request_error` even
with 429. Only an error with status 200 is classified by its body. The provider's message is kept for errors that the
caller can correct, and replaced where it is about the operator's account.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import requests
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

from app.config import MAX_NAME_CHARACTERS
from app.errors import (
    UpstreamAuthenticationFailed,
    UpstreamError,
    UpstreamRefused,
    UpstreamSuspended,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from app.logs import redact
from app.upstream.connection_pool import broke_reused_connection
from app.upstream.error_body import ErrorBody, parse_error_body, read_error_body
from app.upstream.provider_text import clean, quote_object

# If a provider asks for a longer pause, another provider is a better choice than waiting.
_MAX_RETRY_AFTER_S = 300.0

# The suggested pause if the provider names none: the first pauses of the OpenAI SDKs are 0.5 s to 1 s, and Fireworks
# counts its rate limits over seconds.
_DEFAULT_RETRY_AFTER_S = 2.0

# Statuses with which a provider has not served the request. With 408, 504 and 524 some work may have been done, which
# is lost in any case.
_RETRYABLE_STATUSES = frozenset({408, 429, 500, 502, 503, 504, 520, 524})

_ACCOUNT_WORDS = re.compile(
    r"\baccount\b|suspend|billing|payment|spend|credit|balance|invoice|usage limit|quota", re.IGNORECASE
)

# Messages for a prompt that does not fit: Fireworks and vLLM, SGLang, newer vLLM.
_CONTEXT_WORDS = re.compile(r"(?:maximum|model's|allowed) context (?:length|window)|maximum model length")


def make_first_byte_timeout(title: str) -> UpstreamTimeout:
    """Returns the error for a provider called `title` that was silent for too long."""
    message = f"{title} did not start to respond in time. Retry, or send a smaller request."
    return UpstreamTimeout(message, code="upstream_first_byte_timeout")


def make_idle_timeout(title: str) -> UpstreamTimeout:
    """Returns the error for a provider called `title` that stopped sending in the middle of its response."""
    return UpstreamTimeout(
        f"{title} stopped sending in the middle of its response. Retry.", code="upstream_idle_timeout"
    )


def make_total_timeout(title: str) -> UpstreamTimeout:
    """Returns the error for a response that took longer than UPSTREAM_TOTAL_TIMEOUT."""
    return UpstreamTimeout(
        f"The response from {title} took longer than the gateway allows. Request fewer tokens, or ask the operator to "
        "raise the limit.",
        code="upstream_total_timeout",
    )


def make_send_error(title: str, error: Exception) -> UpstreamError:
    """Returns the error for a request that got no response.

    Args:
        title: the provider's name in messages.
        error: the exception from requests or urllib3.

    Returns:
        The error, with `is_retryable` set if the provider has most probably not served the request.
    """
    if isinstance(error, requests.ReadTimeout):
        return make_first_byte_timeout(title)
    if isinstance(error, requests.exceptions.SSLError):
        message = (
            f"A secure connection to {title} could not be established. The operator must check its base URL and the "
            "certificates of this machine."
        )
        return UpstreamUnreachable(message, code="upstream_tls_error")
    made = _make_connection_error(title, error)
    # A kept connection usually breaks because the provider closed it while it was idle, before it read the request. On
    # a new connection the provider may have begun to serve the request, and a second one would have to be paid for too.
    made.is_retryable = made.code != "upstream_connection_lost" or broke_reused_connection(error)
    return made


def _make_connection_error(title: str, error: Exception) -> UpstreamError:
    if isinstance(error, NewConnectionError):  # Checked before the timeout, which is its base class.
        return UpstreamUnreachable(f"{title} could not be reached. Retry in a moment.")
    if isinstance(error, ConnectTimeoutError | requests.ConnectTimeout):
        message = f"{title} could not be reached in time. Retry in a moment."
        return UpstreamTimeout(message, code="upstream_connect_timeout")
    message = f"{title} closed the connection before it responded. Retry in a moment."
    return UpstreamUnreachable(message, code="upstream_connection_lost")


def make_response_error(
    title: str,
    key_setting: str,
    *,
    status: int,
    headers: Mapping[str, str],
    request_id: str | None,
    content: bytes,
) -> UpstreamError:
    """Returns the error for a response whose status is not 2xx.

    Args:
        title: the provider's name in messages.
        key_setting: the name of the setting that holds the gateway's key for the provider.
        status: the HTTP status.
        headers: the headers, by name in lower case.
        request_id: the provider's id for the request from the headers; one in the body takes precedence.
        content: the body, or its beginning.

    Returns:
        The error, with `upstream_status`, `upstream_request_id`, `is_retryable` and `retry_after_s` set.
    """
    error = _make_error(title, key_setting, status, parse_error_body(content), request_id)
    error.upstream_status = status
    error.is_retryable = status in _RETRYABLE_STATUSES
    _set_retry_after(error, get_retry_after_s(headers))
    return error


def make_reported_error(
    title: str, key_setting: str, document: Any, *, headers: Mapping[str, str], request_id: str | None
) -> UpstreamError:
    """Returns the error for a document of status 200 that reports a failure; see `reports_error`.

    Args:
        title: the provider's name in messages.
        key_setting: the name of the setting that holds the gateway's key for the provider.
        document: the document, as JSON values.
        headers: the headers of the response, by name in lower case.
        request_id: the provider's id for the request from the headers; one in the document takes precedence.

    Returns:
        The error for the status that the document names. Without a status nobody can know whether the request was
        charged, so clients are told not to retry.
    """
    body = read_error_body(document)
    error = _make_error(title, key_setting, body.status, body, request_id)
    error.replaces_response = True
    if body.status in _RETRYABLE_STATUSES:
        _set_retry_after(error, get_retry_after_s(headers))
    else:
        error.should_retry = False
    return error


def make_unreadable_error(title: str) -> UpstreamError:
    """Returns the error for a response of status 200 that is not JSON.

    The provider may have charged for it, so clients are told not to retry.
    """
    return UpstreamError(
        f"{title} sent a response that is not JSON, and may have charged for it. Check before you send the request "
        "again; if this persists, the operator should check the provider's base URL.",
        should_retry=False,
    )


def make_unexpected_error(title: str, expected: str, document: Any) -> UpstreamError:
    """Returns the error for a document of status 200 that is neither a response nor an error of a known form.

    Args:
        title: the provider's name in messages.
        expected: the expected document, with an article.
        document: the document, as JSON values. A small object is quoted, because it may explain the failure, but not
            one with `choices`: these may be generated text, which must not get into records.

    Returns:
        The error. The provider may have charged for the document, so clients are told not to retry.
    """
    said = _after_colon(quote_object(document))
    return UpstreamError(
        f"{title} returned something that is not {expected}{said}, and may have charged for it. Check before you send "
        "the request again.",
        should_retry=False,
    )


def _make_error(
    title: str, key_setting: str, status: int | None, body: ErrorBody, request_id: str | None
) -> UpstreamError:
    message = clean(body.message) or ""
    if status is None:
        error = UpstreamError(f"{title} reported an error in place of a response{_after_colon(message)}.")
    else:
        error = _classify(title, key_setting, status, message)
    if isinstance(error, UpstreamRefused):
        error.param = clean(body.param)
        error.code = error.code or (clean(body.code) or "").lower() or None
    error.upstream_request_id = request_id
    if body.request_id is not None:
        error.upstream_request_id = redact(body.request_id[:MAX_NAME_CHARACTERS])
    return error


def _set_retry_after(error: UpstreamError, pause_s: float | None) -> None:
    error.retry_after_is_upstreams = pause_s is not None
    if pause_s is not None:
        error.retry_after_s = pause_s
    elif error.status in {408, 425, 429, 503} and error.should_retry is not False:
        error.retry_after_s = _DEFAULT_RETRY_AFTER_S


def get_retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Returns the pause that a provider asks for (RFC 9110 section 10.2.3), in seconds, at most 300; or None."""
    milliseconds, text = headers.get("retry-after-ms"), headers.get("retry-after")
    try:
        if milliseconds:
            pause_s = float(milliseconds) / 1000
        elif text and text.strip().isdigit():
            pause_s = float(text)
        elif text:
            pause_s = parsedate_to_datetime(text).timestamp() - time.time()
        else:
            return None
    except (ValueError, TypeError, OverflowError):
        return None
    if math.isnan(pause_s):
        return None
    return min(max(pause_s, 0.0), _MAX_RETRY_AFTER_S)


def _classify(title: str, key_setting: str, status: int, message: str) -> UpstreamError:
    """Returns the error for a status; `message` is from the provider, or empty."""
    if status in {401, 403}:
        return UpstreamAuthenticationFailed(
            f"{title} refused the gateway's own API key (HTTP {status}). Your key for the gateway is fine; the "
            f"operator must check {key_setting} and its permissions.",
            status=status,
        )
    if status == 402 or (status == 412 and (_ACCOUNT_WORDS.search(message) or not message)):
        return UpstreamSuspended(
            f"{title} does not serve the gateway's account at the moment (HTTP {status}: suspended, or its spending "
            "limit is reached). Retrying does not help; the operator must resolve this on the provider's billing page."
        )
    if 400 <= status < 500 and status not in {405, 412}:
        return _classify_refusal(title, status, message)
    return _classify_failure(title, status, message)


def _classify_refusal(title: str, status: int, message: str) -> UpstreamError:
    if status == 404:
        text = f"{message.rstrip('.') or 'Model not found'}. Check the model id against GET /v1/models."
        return UpstreamRefused(text, status=404, type="not_found_error", code="model_not_found")
    if status == 429:
        text = f"{message.rstrip('.') or 'Rate limit exceeded'} ({title} limits the gateway). Wait, then retry."
        return UpstreamRefused(text, status=429, type="rate_limit_error", code="rate_limit_exceeded")
    if status == 408:
        text = f"{title} took too long (HTTP 408{_after_colon(message)}). Retry, or stream the response."
        return UpstreamTimeout(text, status=408, code="upstream_408")
    text = message or (
        f"{title} refused the request with HTTP {status} and gave no reason. Check the request against the provider's "
        "API reference."
    )
    code = "context_length_exceeded" if _CONTEXT_WORDS.search(message) else None
    return UpstreamRefused(text, status=status, type="invalid_request_error", code=code)


def _classify_failure(title: str, status: int, message: str) -> UpstreamError:
    details = f"(HTTP {status}{_after_colon(message)})"
    if status in {504, 524}:
        return UpstreamTimeout(
            f"{title} did not respond in time {details}. Retry, or stream the response.", code="upstream_504"
        )
    if 300 <= status < 400:
        return UpstreamError(
            f"{title} redirected the request (HTTP {status}), and the gateway follows no redirects. The operator must "
            "check the provider's base URL.",
            should_retry=False,
        )
    if status in {405, 412}:
        message = f"{title} could not serve the request {details}. Report it to the operator."
        return UpstreamError(message, should_retry=False)
    # 520 to 530 are statuses of edges for a failing origin; clients know 502.
    shown = status if status in {500, 502, 503} else 502
    return UpstreamError(f"{title} failed {details}. Retry in a moment.", status=shown)


def _after_colon(message: str) -> str:
    return f": {message}" if message else ""
