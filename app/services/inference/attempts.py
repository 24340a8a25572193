"""The attempts of a request on its record: one entry for each time that it was sent, in order.

A record has them only if there was more than one, or if one failed. Each names the provider and the model, the status,
the error, how long it took, and the tokens and the cost that are known of it.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any
from urllib.parse import quote

from app.errors import GatewayError
from app.services.journal import ActivityRecord
from app.services.routing import Target

# What a record says of the attempt that was served, and what it has before one is.
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
        "ttft_ms",
        "tokens_per_second",
        "finish_reason",
        "upstream_request_id",
        "upstream_status",
        "events",
        "longest_gap_ms",
    )
}

# Names of models that a caller wrote stand in a header, so they are shortened.
_MAX_NAME_IN_HEADER = 60


def add_attempt(
    record: ActivityRecord, target: Target, status: int | None, error: str | None, elapsed_s: float
) -> None:
    """Adds an attempt.

    Args:
        record: the record of the request.
        target: where it was sent.
        status: the provider's HTTP status; None without a response.
        error: the code or type of the error; None if the response is, so far, none.
        elapsed_s: how long it took, in seconds.
    """
    record.attempts.append(
        {
            "provider": target.provider.name,
            "model": target.model,
            "status": status,
            "error": error,
            "ms": round(elapsed_s * 1000, 1),
            "tokens": None,
            "cost_usd": None,
        }
    )


def add_skipped(record: ActivityRecord, target: Target, code: str) -> None:
    """Adds a target that was left out, because it cannot serve the request."""
    add_attempt(record, target, None, code, 0.0)
    record.attempts[-1]["ms"] = None


def add_missing(record: ActivityRecord, name: str, code: str) -> None:
    """Adds the name of a model that has no target, beside others that have one; it was sent nowhere."""
    record.attempts.append(
        {"provider": None, "model": name, "status": None, "error": code, "ms": None, "tokens": None, "cost_usd": None}
    )


def fail_response(record: ActivityRecord, error: GatewayError, elapsed_s: float) -> None:
    """Notes that the last attempt, whose response had begun, has failed."""
    attempt = record.attempts[-1]
    attempt["error"] = error.code or error.type
    attempt["ms"] = round(elapsed_s * 1000, 1)


def set_aside(record: ActivityRecord) -> Decimal:
    """Moves what the record says of a failed attempt to its entry, the last, so that another attempt can follow.

    Returns:
        What the attempt is known to have cost, in USD.
    """
    _fill(record)
    cost_usd = record.cost_usd
    for name, value in _OF_AN_ATTEMPT.items():
        setattr(record, name, value)
    return Decimal(cost_usd or 0)


def close_attempts(record: ActivityRecord, spent_usd: Decimal) -> None:
    """Completes the record of a request with attempts: the last one's usage, and the cost of all.

    Args:
        record: the record, with the usage of the last attempt.
        spent_usd: what those before it are known to have cost.
    """
    attempts = record.attempts
    if attempts[-1]["provider"] is not None:
        _fill(record)
    if len(attempts) == 1 and attempts[0]["error"] is None:
        attempts.clear()
    if spent_usd:
        record.cost_usd = format(Decimal(record.cost_usd or 0) + spent_usd, "f")
        if record.cost_kind == "unknown":
            record.cost_kind = "estimated"


def _fill(record: ActivityRecord) -> None:
    attempt = record.attempts[-1]
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
