"""Reads the `usage` of a chat completion or chunk field by field, whatever a provider wrote there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.services.endpoints.stream_summary import Usage

# The most tokens that one request can plausibly have used: 128 choices of a million tokens, or a hundred of today's
# largest contexts, are below it. Providers also send -1 for "not set", and overflowed counters.
MAX_PLAUSIBLE_TOKENS = 10**9

# The same in USD: a million tokens of the dearest model cost some hundred.
MAX_PLAUSIBLE_USD = 1_000_000

# Where a usage states what the request cost.
COST_FIELD = "estimated_cost"

# A larger number has more digits than this, and Python refuses to convert a text of thousands of digits.
_MAX_DIGITS = 10


def read_usage(raw: Any) -> Usage | None:
    """Returns what is readable of a decoded `usage`; None if that is nothing. It never raises.

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
    """Returns a usage that came later in a stream; what it lacks is kept from the one before."""
    if before is None or (usage.prompt_tokens is not None and usage.completion_tokens is not None):
        return usage
    return Usage(*(old if new is None else new for old, new in zip(_values(before), _values(usage), strict=True)))


def _values(usage: Usage) -> tuple[Any, ...]:
    return usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens, usage.reasoning_tokens, usage.cost_usd


def read_input_usage(raw: Any) -> Usage | None:
    """Returns the usage of a response for which nothing was generated: it has no completion tokens, and that is known.

    `total_tokens` stands for the prompt's where only it is stated.
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
    """Returns an amount in USD; None if it is none that a request can cost."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_PLAUSIBLE_USD:
        return None
    return float(value)


def _read_count(value: Any) -> int | None:
    """Returns a number of tokens, also one written as 12.0 or "12"; None if it is not a plausible one."""
    if isinstance(value, str):
        value = int(value) if value.isascii() and value.isdigit() and len(value) <= _MAX_DIGITS else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not 0 <= value <= MAX_PLAUSIBLE_TOKENS or value != int(value):  # NaN fails the first comparison.
        return None
    return int(value)
