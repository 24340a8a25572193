"""The attempts of a request on its record: one entry for each time that it was sent, in order.

A record has attempts only if there was more than one, or if one failed. Each entry has the provider and the model, the
status, the error, the duration, and the tokens and the cost as far as they are known.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any
from urllib.parse import quote

from app.services.journal import ActivityRecord
from app.services.routing import Target

# Record fields that describe the served attempt, with their initial values.
_OF_AN_ATTEMPT: Mapping[str, Any] = {
    name: getattr(ActivityRecord("", "", "", ""), name)
    for name in (
        "model_served",
        "prompt_tokens",
        "completion_tokens",
        "cached_tokens",
        "reasoning_tokens",
        "usage_source",
        "cost_usd",
        "cost_kind",
        "price_source",
        "price_date",
        "stated_cost_usd",
        "ttft_ms",
        "tokens_per_second",
        "finish_reason",
        "upstream_request_id",
        "upstream_status",
        "events",
        "longest_gap_ms",
    )
}

# Callers choose model names, so names in the header are cut.
_MAX_NAME_IN_HEADER = 60


def open_attempt(record: ActivityRecord, target: Target) -> None:
    """Adds an attempt that is about to be made, if the record has others and does not have this one yet.

    The entry stays on the record if the client leaves or the worker is killed before the attempt ends.
    """
    if record.attempts and not _is_open(record):
        _add(record, target.provider.name, target.model, None)


def withdraw_attempt(record: ActivityRecord) -> None:
    """Removes an attempt that was opened but will not be made."""
    if _is_open(record):
        record.attempts.pop()


def end_attempt(
    record: ActivityRecord, target: Target, status: int | None, error: str | None, elapsed_s: float
) -> None:
    """Adds an attempt that has got a response or failed, or completes it if it was opened.

    Args:
        record: the record of the request.
        target: where it was sent.
        status: the provider's HTTP status; None without a response.
        error: the code or type of the error; None if the response is, so far, none.
        elapsed_s: how long it took, in seconds.
    """
    if not _is_open(record):
        _add(record, target.provider.name, target.model, error)
    record.attempts[-1].update(status=status, error=error, ms=_to_ms(elapsed_s))


def add_skipped(record: ActivityRecord, target: Target, code: str) -> None:
    """Adds a target that was left out because it cannot serve the request; nothing was sent to it."""
    _add(record, target.provider.name, target.model, code)


def add_missing(record: ActivityRecord, name: str, code: str) -> None:
    """Adds a model name without a target, beside others that have one; nothing was sent."""
    _add(record, None, name, code)


def fail_response(record: ActivityRecord, code: str, elapsed_s: float) -> None:
    """Marks the last attempt made as failed: its response had begun, or it was abandoned.

    Args:
        record: the record of the request.
        code: the code or type of the error.
        elapsed_s: how long the attempt took until it failed, in seconds.
    """
    attempt = _find_last(record)
    if attempt is not None:
        attempt.update(error=code, ms=_to_ms(elapsed_s))


def _add(record: ActivityRecord, provider: str | None, model: str, error: str | None) -> None:
    entry = {"provider": provider, "model": model, "status": None, "error": error, "ms": None}
    record.attempts.append(entry | {"tokens": None, "cost_usd": None})


def _is_open(record: ActivityRecord) -> bool:
    """Returns whether the last attempt has begun and not ended."""
    return bool(record.attempts) and record.attempts[-1]["ms"] is None and record.attempts[-1]["error"] is None


def _find_last(record: ActivityRecord) -> dict[str, Any] | None:
    """Returns the last attempt that was made. Entries of targets that were left out may follow it."""
    made = (each for each in reversed(record.attempts) if each.get("ms") is not None or each["error"] is None)
    return next(made, None)


def _to_ms(elapsed_s: float) -> float:
    return round(elapsed_s * 1000, 1)


def set_aside(record: ActivityRecord) -> Decimal:
    """Moves the result of a failed attempt from the record to its entry, the last, so that another attempt can follow.

    Returns:
        The known cost of the attempt, in USD.
    """
    _fill(record)
    cost_usd = record.cost_usd
    for name, value in _OF_AN_ATTEMPT.items():
        setattr(record, name, value)
    return Decimal(cost_usd or 0)


def close_attempts(record: ActivityRecord, spent_usd: Decimal, elapsed_s: float | None) -> None:
    """Completes the record of a request with attempts: usage and error of the last one, and the cost of all.

    Args:
        record: the record, with its outcome, its error and the usage of the last attempt.
        spent_usd: the known cost of the attempts before the last one.
        elapsed_s: how long ago the last attempt began, in seconds; None if nothing was sent.
    """
    attempts = record.attempts
    if elapsed_s is None:
        withdraw_attempt(record)
        return
    _fill(record)
    if len(attempts) == 1 and attempts[0]["error"] is None:
        attempts.clear()
    elif record.outcome != "ok" and (last := _find_last(record)) is not None and last["error"] is None:
        fail_response(record, record.error_code or record.error_type or record.outcome, elapsed_s)
    if spent_usd:
        record.cost_usd = format(Decimal(record.cost_usd or 0) + spent_usd, "f")
        if record.cost_kind == "unknown":
            record.cost_kind = "estimated"


def _fill(record: ActivityRecord) -> None:
    attempt = _find_last(record)
    if attempt is None:
        return
    if record.prompt_tokens is not None and record.completion_tokens is not None:
        attempt["tokens"] = record.prompt_tokens + record.completion_tokens
    attempt["cost_usd"] = record.cost_usd


def describe_attempts(attempts: Sequence[Mapping[str, Any]]) -> str:
    """Returns the attempts as the header `x-gateway-attempts` has them: `fireworks=503, deepinfra=200`."""
    return ", ".join(_describe(attempt) for attempt in attempts)


def _describe(attempt: Mapping[str, Any]) -> str:
    name = attempt["provider"]
    if name is None:
        shown = attempt["model"][:_MAX_NAME_IN_HEADER]
        name = quote(shown, safe=string.punctuation.replace(",", "").replace("=", ""), errors="replace")
    status = attempt["status"]
    # A response of status 200 that is an error, or broke off, is not a success.
    is_shown = status is not None and (attempt["error"] is None or status >= 300)
    return f"{name}={status if is_shown else attempt['error']}"
