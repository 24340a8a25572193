"""What a provider's error answer means to the caller: classified by status, worded so that it says what to do.

Fireworks alone has seven body shapes, and its `type` says `invalid_request_error` even for 429, so only the HTTP
status decides. Its message is kept for errors that the caller can mend and replaced where it speaks about the
operator's account.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec

from app.errors import (
    UpstreamAuthenticationFailed,
    UpstreamError,
    UpstreamRefused,
    UpstreamSuspended,
    UpstreamTimeout,
)
from app.logs import redact

# Long enough for Fireworks' list of thirteen field errors, short enough for a log line and a header-sized answer.
_MAX_MESSAGE_CHARACTERS = 2_000

# A provider that asks for a longer pause than this is better met by another provider than by a waiting client.
_MAX_RETRY_AFTER_S = 300.0

# What we suggest where the provider says "later" without saying when: the OpenAI SDKs' own first pauses are 0.5 s
# to 1 s, and Fireworks' rate limits are counted over seconds.
_DEFAULT_RETRY_AFTER_S = 2.0

# Answers of a provider that did not serve the request. 408, 504 and 524 may come after some work was done, which is
# lost either way.
_RETRYABLE = frozenset({408, 429, 500, 502, 503, 504, 520, 524})

_REQUEST_ID_HEADERS = ("x-request-id", "x-fireworks-request-id", "x-chutes-invocationid", "cf-ray")

_ACCOUNT_WORDS = re.compile(
    r"\baccount\b|suspend|billing|payment|spend|credit|balance|invoice|usage limit|quota", re.IGNORECASE
)


def get_request_id(headers: Mapping[str, str], body: Any = None) -> str | None:
    """Returns the provider's id for a request: from the error body, else from a header, else None."""
    if isinstance(body, dict) and isinstance(body.get("request_id"), str):
        return str(body["request_id"])[:200]
    found = (headers.get(name, "") for name in _REQUEST_ID_HEADERS)
    return next((value[:200] for value in found if value and value.isprintable()), None)


def get_retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Returns the pause in seconds that the provider asks for (RFC 9110 section 10.2.3), or None."""
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


def process_error_message(content: bytes) -> tuple[str | None, str | None, str | None, Any]:
    """Finds what a provider's error body says, whichever of the known shapes it has.

    Returns:
        (message, param, code, parsed body); each None where the body does not say, as with an edge's HTML.
    """
    try:
        body = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None, None, None, None
    if not isinstance(body, dict):
        return None, None, None, body
    error = body.get("error") or body.get("detail") or body.get("fault") or body
    if isinstance(error, dict) and isinstance(error.get("error"), str | dict):
        error = error["error"]  # DeepInfra nests {"detail": {"error": …}}.
    if isinstance(error, list):
        return _validation_message(error), None, None, body
    if isinstance(error, str):
        more = body.get("message")
        return (f"{error}: {more}" if isinstance(more, str) else error), None, None, body
    if not isinstance(error, dict):
        return None, None, None, body
    message = error.get("message") or error.get("faultstring") or error.get("error_message")
    param, code = error.get("param"), error.get("code")
    return (
        message if isinstance(message, str) else None,
        param if isinstance(param, str) else None,
        str(code) if isinstance(code, str | int) else None,
        body,
    )


def _validation_message(rows: list[Any]) -> str | None:
    """Words FastAPI's 422 list: `[{"loc": ["body", "x"], "msg": …}]`."""
    parts = []
    for row in rows[:10]:
        if isinstance(row, dict):
            steps = row.get("loc")
            where = ".".join(str(step) for step in steps if step != "body") if isinstance(steps, list) else ""
            parts.append(f"{where}: {row.get('msg')}" if where else str(row.get("msg")))
    return "; ".join(parts) or None


def error_from_answer(
    title: str, key_setting: str, status: int, headers: Mapping[str, str], content: bytes
) -> UpstreamError:
    """Turns a provider's non-2xx answer into the error that the caller gets.

    Args:
        title: the provider's name in messages.
        key_setting: the setting that holds the gateway's key for it.
        status: its HTTP status.
        headers: its headers, keys in any case if the mapping does not mind.
        content: the beginning of its body.

    Returns:
        The error, with `upstream_status` and `upstream_request_id` set.
    """
    message, param, code, body = process_error_message(content)
    said = redact(message)[:_MAX_MESSAGE_CHARACTERS] if message else ""
    error = _classified(title, key_setting, status, said)
    if isinstance(error, UpstreamRefused):
        error.param = redact(param) if param else None
        error.code = error.code or (redact(code).lower() if code else None)
    error.upstream_status = status
    error.upstream_request_id = get_request_id(headers, body)
    error.is_retryable = status in _RETRYABLE
    pause_s = get_retry_after_s(headers)
    error.retry_after_is_upstreams = pause_s is not None
    if pause_s is not None or error.status in {408, 425, 429, 503} and error.should_retry is not False:
        error.retry_after_s = pause_s if pause_s is not None else _DEFAULT_RETRY_AFTER_S
    return error


def _classified(title: str, key_setting: str, status: int, said: str) -> UpstreamError:
    if status in {401, 403}:
        return UpstreamAuthenticationFailed(
            f"{title} refused the gateway's own API key (HTTP {status}). Your key for the gateway is fine; "
            f"the operator must check {key_setting} and what it may use.",
            status=status,
        )
    if status == 402 or (status == 412 and (_ACCOUNT_WORDS.search(said) or not said)):
        return UpstreamSuspended(
            f"{title} does not serve the gateway's account at the moment (HTTP {status}: suspended, or its spending "
            "limit is reached). Retrying does not help; the operator must settle it on the provider's billing page."
        )
    if 400 <= status < 500 and status not in {402, 405, 412}:
        return _refused(title, status, said)
    return _failed(title, status, said)


def _refused(title: str, status: int, said: str) -> UpstreamError:
    if status == 404:
        hint = "Check the model id against GET /v1/models."
        message = f"{said.rstrip('.') or 'Model not found'}. {hint}"
        return UpstreamRefused(message, status=404, type="not_found_error", code="model_not_found")
    if status == 429:
        message = f"{said.rstrip('.') or 'Rate limit exceeded'} ({title} limits the gateway). Wait, then retry."
        return UpstreamRefused(message, status=429, type="rate_limit_error", code="rate_limit_exceeded")
    if status == 408:
        message = f"{title} took too long (HTTP 408{': ' + said if said else ''}). Retry, or stream the answer."
        return UpstreamTimeout(message, status=408, code="upstream_408")
    message = (
        said or f"{title} refused the request with HTTP {status} and no reason. Compare it with its API reference."
    )
    code = "context_length_exceeded" if "maximum context length" in said else None
    return UpstreamRefused(message, status=status, type="invalid_request_error", code=code)


def _failed(title: str, status: int, said: str) -> UpstreamError:
    detail = f": {said}" if said else ""
    if status in {504, 524}:
        return UpstreamTimeout(
            f"{title} did not answer in time (HTTP {status}{detail}). Retry, or stream the answer.",
            code="upstream_504",
        )
    if 300 <= status < 400:
        return UpstreamError(
            f"{title} redirected the request (HTTP {status}), which is not followed. The operator must check the "
            "provider's base URL.",
            should_retry=False,
        )
    if status in {405, 412}:
        return UpstreamError(f"{title} could not serve the request (HTTP {status}{detail}). Report it to the operator.")
    # 520 to 530 are an edge's own words for a failing origin; callers know 502.
    shown = status if status in {500, 502, 503} else 502
    return UpstreamError(f"{title} failed (HTTP {status}{detail}). Retry in a moment.", status=shown)
