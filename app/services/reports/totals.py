"""Sums as a caller sees them: what is unknown is None, and exact, estimated and unknown costs stay apart."""

from __future__ import annotations

from decimal import Context, Decimal
from typing import Any

from app.db.rollups import Sums

# The digits of activity's cost_usd; an average is not worth more than what it is made of.
_USD_PLACES = Decimal("1e-15")
# The usual 28 digits are too few for 15 places of a sum above ten million million.
_WIDE = Context(prec=60)


def describe_totals(sums: Sums) -> dict[str, Any]:
    """Returns tokens and costs (USD) by the names that the API has for them.

    Tokens are those of requests whose usage is known; None where there were requests, but none with usage. Costs
    are None where no cost is known; `total_cost` is the sum of the exact ones, `estimated_cost` of the estimated
    ones, and `unpriced_requests` the number of requests without either.
    """
    tokens_known = not sums.requests or bool(_tokens(sums))
    costs_known = is_priced(sums)
    return {
        "total_tokens": _tokens(sums) if tokens_known else None,
        "prompt_tokens": sums.prompt_tokens if tokens_known else None,
        "completion_tokens": sums.completion_tokens if tokens_known else None,
        "cached_tokens": sums.cached_tokens if tokens_known else None,
        "total_cost": plain_usd(sums.cost_exact) if costs_known else None,
        "estimated_cost": plain_usd(sums.cost_estimated) if costs_known else None,
        "unpriced_requests": sums.unpriced_requests,
    }


def is_priced(sums: Sums) -> bool:
    """Tells whether the sums of costs say anything: they do if any cost was known, or none was due."""
    return not sums.unpriced_requests or bool(sums.cost_exact or sums.cost_estimated)


def compute_speed(sums: Sums) -> float | None:
    """Returns the tokens per second of all answers together, weighted by their length; None without any."""
    return round(sums.speed_tokens / sums.speed_ms * 1000, 2) if sums.speed_ms else None


def plain_usd(usd: Decimal) -> Decimal:
    """Returns the same amount without an exponent and without zeros at its end, at most 15 decimal places."""
    rounded = usd.quantize(_USD_PLACES, context=_WIDE)
    return Decimal(format(rounded, "f").rstrip("0").rstrip("."))


def _tokens(sums: Sums) -> int:
    return sums.prompt_tokens + sums.completion_tokens
