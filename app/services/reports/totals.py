"""Totals of requests for callers: None if unknown, with exact, estimated and unknown costs kept apart."""

from __future__ import annotations

from decimal import Context, Decimal
from typing import Any

from app.db.sums import Sums

# The scale of activity's cost_usd; an average cannot be more precise than the costs themselves.
_USD_PLACES = Decimal("1e-15")
# The default of 28 digits is too few for 15 decimal places of a sum above ten million million.
_WIDE = Context(prec=60)


def make_totals(sums: Sums) -> dict[str, Any]:
    """Returns the fields of tokens and costs that all reports share.

    Returns:
        total_tokens, prompt_tokens, completion_tokens, cached_tokens: int, of requests whose usage is known; None if
            there were requests but none with usage.
        total_cost, estimated_cost: Decimal, USD; the sums of the exact and of the estimated costs. None if no cost is
            known.
        unpriced_requests: int, requests without an exact or estimated cost.
    """
    tokens_known = not sums.requests or bool(_sum_tokens(sums))
    costs_known = is_cost_known(sums)
    return {
        "total_tokens": _sum_tokens(sums) if tokens_known else None,
        "prompt_tokens": sums.prompt_tokens if tokens_known else None,
        "completion_tokens": sums.completion_tokens if tokens_known else None,
        "cached_tokens": sums.cached_tokens if tokens_known else None,
        "total_cost": normalize_usd(sums.cost_exact) if costs_known else None,
        "estimated_cost": normalize_usd(sums.cost_estimated) if costs_known else None,
        "unpriced_requests": sums.unpriced_requests,
    }


def is_cost_known(sums: Sums) -> bool:
    """Returns whether the sums of costs are meaningful: a cost was known, or no request should have had one."""
    return not sums.unpriced_requests or bool(sums.cost_exact or sums.cost_estimated)


def compute_speed(sums: Sums) -> float | None:
    """Returns the completion tokens per second of all responses together; None if no speed was measured.

    Long responses count for more than short ones, because their tokens and their time are summed first.
    """
    return round(sums.speed_tokens / sums.speed_ms * 1000, 2) if sums.speed_ms else None


def normalize_usd(usd: Decimal) -> Decimal:
    """Returns the same amount without an exponent and trailing zeros, with at most 15 decimal places."""
    rounded = usd.quantize(_USD_PLACES, context=_WIDE)
    return Decimal(format(rounded, "f").rstrip("0").rstrip("."))


def _sum_tokens(sums: Sums) -> int:
    return sums.prompt_tokens + sums.completion_tokens
