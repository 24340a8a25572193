"""Errors for requests that a limit refuses, and headers that tell how much is left."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from app.db.tables import MAX_TOKENS
from app.errors import Unavailable
from app.limit_errors import InsufficientQuota, LimitReached
from app.services.limits.amounts import Unit, describe_amount
from app.services.limits.budget_pots import BudgetPeriod, BudgetPot
from app.services.limits.permits import RatePot
from app.services.limits.pots import SlotPot

# Limits belong to a holder; the caller knows the holder as its key.
_NAMES = {"holder": "key", "group": "group", "gateway": "gateway"}
_POSSESSIVES = {"holder": "key's", "group": "group's", "gateway": "gateway's"}

_WINDOWS = {
    "day": "a day",
    "week": "a week",
    "month": "a month",
    "total": "in all",
    "rolling:24h": "in any 24 hours",
    "rolling:30d": "in any 30 days",
}

# How long to wait until running requests may have ended, in seconds.
RESERVED_RETRY_S = 1.0
_UNAVAILABLE_RETRY_S = 5.0
# More than any budget has left, for the unit that does not refuse the request.
_PLENTY = 1 << 80

# (10⁻¹² USD left, tokens left) → the max_tokens with which the request would fit; None if it cannot fit.
Fits = Callable[[int, int], int | None]


def describe_budget(pot: BudgetPot, period: BudgetPeriod) -> str:
    """Returns the name and reset time of a budget, as in `group budget month; resets=2026-12-01T00:00:00Z`."""
    text = f"{_NAMES[pot.subject.kind]} budget {pot.budget.window}"
    reset = pot.compute_reset(period)
    return text if reset is None else f"{text}; resets={_format_time(reset)}"


def _format_time(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def make_budget_refusal(pot: BudgetPot, need: int, fits: Fits | None, status: int) -> LimitReached:
    """Returns the error for a request that does not fit into a budget.

    Args:
        pot: the budget.
        need: the most that the request can cost, in the budget's unit.
        fits: returns the max_tokens with which it would fit; None if that is not known.
        status: the HTTP status if waiting for other requests would not help, from BUDGET_STATUS.
    """
    period, unit = pot.current, pot.unit
    total = max(period.total, 0)
    amount = describe_amount(total, unit)
    head = f"The {_POSSESSIVES[pot.subject.kind]} budget of {amount} {_WINDOWS[pot.budget.window]}"
    spendable = max(total - max(period.charged, 0), 0)
    limit = describe_budget(pot, period)
    if spendable >= need:
        free = max(total - period.granted + max(period.free, 0), 0)
        return LimitReached(
            f"{head} has {describe_amount(free, unit)} that no running request holds; this request may use up to"
            f" {describe_amount(need, unit)}. It fits once running requests have ended: retry in a second.",
            limit=limit,
            code="budget_reserved",
            retry_after_s=RESERVED_RETRY_S,
        )
    most = _find_most(fits, unit, spendable)
    ways = [] if most is None else [f"send max_tokens of at most {most}"]
    reset = pot.compute_reset(period)
    if pot.budget.window.startswith("rolling"):
        ways.append("wait until earlier requests are out of this window")
    elif reset is not None:
        ways.append(f"wait until {_format_time(reset)}")
    ways.append("ask the operator for more")
    todo = ways[0] if len(ways) == 1 else f"{', '.join(ways[:-1])} or {ways[-1]}"
    return InsufficientQuota(
        f"{head} has {describe_amount(spendable, unit)} left; this request may use up to"
        f" {describe_amount(need, unit)}. {todo[0].upper()}{todo[1:]}.",
        limit=limit,
        status=status,
        param=None if most is None else "max_tokens",
    )


def _find_most(fits: Fits | None, unit: Unit, room: int) -> int | None:
    """Returns the max_tokens with which a request would fit; None if it cannot, or if less output would not help."""
    if fits is None or unit == "requests":
        return None
    most = fits(room, _PLENTY) if unit == "usd" else fits(_PLENTY, room)
    # No answer is as long as MAX_TOKENS. A larger number means that output is free, so less of it would not help.
    return most if most is not None and 1 <= most <= MAX_TOKENS else None


def make_rate_refusal(pot: RatePot, need: int, wait_s: float, others: dict[str, str]) -> LimitReached:
    """Returns the error for a request above a rate.

    Args:
        pot: the rate.
        need: the permits that the request needs.
        wait_s: how long to wait, in seconds.
        others: the `x-ratelimit-…` headers.
    """
    whose = _POSSESSIVES[pot.subject.kind]
    wants = "" if pot.kind == "requests" else f" This request needs up to {need:,}."
    return LimitReached(
        f"The {whose} limit of {pot.most:,} {pot.kind} a minute is reached.{wants}"
        f" Retry in {max(wait_s, 0.001):.3g} seconds.",
        limit=f"{_NAMES[pot.subject.kind]} {pot.kind} per minute",
        retry_after_s=wait_s,
        others=others,
    )


def make_slot_refusal(pot: SlotPot) -> LimitReached:
    """Returns the error for a request above the limit on concurrent requests."""
    return LimitReached(
        f"The {_POSSESSIVES[pot.subject.kind]} limit of {pot.most:,} concurrent requests is reached."
        " Wait for one to end and retry.",
        limit=f"{_NAMES[pot.subject.kind]} concurrent requests",
        retry_after_s=RESERVED_RETRY_S,
    )


def make_unavailable() -> Unavailable:
    """Returns the error for when the database cannot be asked and this worker has used up its draws."""
    return Unavailable(
        "The gateway cannot check the limits of this key, because its database is unavailable. Retry in a few"
        " seconds; if this persists, tell the operator.",
        code="budget_unavailable",
        retry_after_s=_UNAVAILABLE_RETRY_S,
    )


def make_rate_headers(pots: list[RatePot], now_s: float) -> dict[str, str]:
    """Returns OpenAI's rate-limit headers: limit, remaining and reset, for the tightest of the subjects.

    The remaining number is from the database's last answer, at most some seconds ago. A rate resets gradually: `reset`
    is when all of it is free again, if nobody uses it, or, if nothing is left, when anything is.
    """
    tightest: dict[str, RatePot] = {}
    for pot in pots:
        other = tightest.get(pot.kind)
        if other is None or pot.count_left() / pot.most < other.count_left() / other.most:
            tightest[pot.kind] = pot
    headers = {}
    for kind, pot in tightest.items():
        left = pot.count_left()
        wait_s = max(pot.refused_until_s - now_s, 0.0)
        reset_s = wait_s if left == 0 and wait_s else (pot.most - left) / pot.most * 60
        headers[f"x-ratelimit-limit-{kind}"] = str(pot.most)
        headers[f"x-ratelimit-remaining-{kind}"] = str(left)
        headers[f"x-ratelimit-reset-{kind}"] = format_duration(reset_s)
    return headers


def format_duration(seconds: float) -> str:
    """Returns a duration in OpenAI's format: "850ms", "1.2s" or "6m0s"."""
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    if seconds < 60:
        return f"{round(seconds, 1):g}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest}s"


def describe_warning(pot: BudgetPot, period: BudgetPeriod) -> str | None:
    """Returns the value of `x-gateway-budget-warning`; None below the first share with a warning."""
    percent = get_percent(period)
    if percent is None or not pot.budget.warn_percents or percent < pot.budget.warn_percents[0]:
        return None
    head, _, resets = describe_budget(pot, period).partition("; ")
    return "; ".join(part for part in (head, f"used={percent}%", resets) if part)


def get_percent(period: BudgetPeriod) -> int | None:
    """Returns the charged share of a budget in whole percents; None if it is not known."""
    if period.charged < 0 or period.total < 0:
        return None
    return 100 if period.total == 0 else period.charged * 100 // period.total
