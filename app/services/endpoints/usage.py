"""Reads the `usage` of a chat completion or chunk field by field, in any form that providers send."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.services.endpoints.stream_summary import Usage

# The most tokens that one request can plausibly have used: 128 choices of a million tokens, or a hundred of today's
# largest contexts, are below it. Providers also send -1 for "not set", and overflowed counters.
MAX_PLAUSIBLE_TOKENS = 10**9

# The same in USD: a million tokens of the dearest model cost some hundred.
MAX_PLAUSIBLE_USD = 1_000_000

# The field of a usage that states the cost of the request.
COST_FIELD = "estimated_cost"

# A larger number has more digits than this, and Python refuses to convert a text of thousands of digits.
_MAX_DIGITS = 10


def read_usage(raw: Any) -> Usage | None:
    """Returns the readable part of a decoded `usage`; None if there is none. It never raises.

    A number that is implausible (negative, fractional, above MAX_PLAUSIBLE_TOKENS, true or false) is unknown, and the
    others are kept. A part that is greater than its total is unknown too.
    """
    if not isinstance(raw, Mapping):
        return None
    prompt, completion = _read_count(raw.get("prompt_tokens")), _read_count(raw.get("completion_tokens"))
    usage = Usage(
        prompt,
        completion,
        _read_part(raw.get("prompt_tokens_details"), "cached_tokens", prompt),
        _read_part(raw.get("completion_tokens_details"), "reasoning_tokens", completion),
        _read_cost(raw[COST_FIELD]) if COST_FIELD in raw else None,
    )
    return None if usage == Usage() else usage


def merge_usages(before: Usage | None, usage: Usage) -> Usage:
    """Returns a later usage of a stream; numbers that it lacks are kept from the earlier one."""
    if before is None or (usage.prompt_tokens is not None and usage.completion_tokens is not None):
        return usage
    return Usage(*(old if new is None else new for old, new in zip(_values(before), _values(usage), strict=True)))


def _values(usage: Usage) -> tuple[Any, ...]:
    return usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens, usage.reasoning_tokens, usage.cost_usd


def read_input_usage(raw: Any) -> Usage | None:
    """Returns the usage of a response for which nothing is generated: its completion tokens are known to be 0.

    `total_tokens` counts as the prompt's if it is the only number.
    """
    usage = read_usage(raw) or Usage()
    prompt = usage.prompt_tokens
    if prompt is None and isinstance(raw, Mapping):
        prompt = _read_count(raw.get("total_tokens"))
    return None if prompt is None else Usage(prompt, 0, usage.cached_tokens, cost_usd=usage.cost_usd)


def _read_part(details: Any, name: str, total: int | None) -> int | None:
    count = _read_count(details.get(name)) if isinstance(details, Mapping) else None
    return None if count is not None and total is not None and count > total else count


def _read_cost(value: Any) -> float | None:
    """Returns an amount in USD; None for a value that no request can cost."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_PLAUSIBLE_USD:
        return None
    return float(value)


def _read_count(value: Any) -> int | None:
    """Returns a number of tokens, even if written as 12.0 or "12"; None if it is not plausible."""
    if isinstance(value, str):
        value = int(value) if value.isascii() and value.isdigit() and len(value) <= _MAX_DIGITS else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not 0 <= value <= MAX_PLAUSIBLE_TOKENS or value != int(value):  # NaN fails the first comparison.
        return None
    return int(value)
