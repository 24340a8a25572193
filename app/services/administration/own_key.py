"""A key's view of itself: its limits, how much of them is used, and how much is left."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

import msgspec

from app.db import Connection, DatabaseError, read_connection
from app.db.budgets import select_budgets
from app.db.key_costs import select_key_costs
from app.db.keys import select_key
from app.db.limit_tables import GATEWAY_ID
from app.db.subjects import SubjectRow, select_subjects
from app.services.administration.states import BudgetState, Charges, select_budget_states
from app.services.administration.terms import normalize
from app.services.keys import Key

# Window names for OpenRouter's programs; windows without an entry keep our names, and an endless one has none.
_RESETS = {"day": "daily", "week": "weekly", "month": "monthly", "total": None}
_RATES = ("requests_per_minute", "tokens_per_minute", "concurrent", "max_output_tokens")
# Limits belong to a holder; the caller knows the holder as its key.
_OF = {"holder": "key"}


class OwnBudget(msgspec.Struct, frozen=True, kw_only=True):
    """A budget that the key's requests are charged to; amounts are in its unit. See BudgetState."""

    of: str
    unit: str
    window: str
    timezone: str
    limit: Decimal
    charged: Charges
    in_use: Decimal
    remaining: Decimal
    used_percent: float
    resets_at: datetime | None


class OwnRates(msgspec.Struct, frozen=True, kw_only=True):
    """The least that the holder, the group and the gateway allow; None means no limit."""

    requests_per_minute: int | None
    tokens_per_minute: int | None
    concurrent: int | None
    max_output_tokens: int | None


class OwnKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key, as it is shown to itself; the first fields have OpenRouter's names.

    Attributes:
        label: the beginning and the end of the key.
        limit, limit_remaining, limit_reset: the budget in USD of the holder that has the least left; None without any.
        usage, usage_daily, usage_weekly, usage_monthly: what requests of the key have cost in USD, in all and in the
            UTC day, week and month of now.
        models: the patterns of the holder; if it has none, those of the group or the gateway; [] if all are allowed.
        budgets: those of the holder and the group, and for an operator's key those of the gateway.
    """

    label: str
    name: str
    group: str | None
    is_operator: bool
    limit: Decimal | None
    limit_remaining: Decimal | None
    limit_reset: str | None
    usage: Decimal
    usage_daily: Decimal
    usage_weekly: Decimal
    usage_monthly: Decimal
    expires_at: datetime | None
    models: list[str]
    budgets: list[OwnBudget]
    rates: OwnRates


def select_own_key(key: Key) -> OwnKey:
    """Returns a key's view of itself.

    Raises:
        DatabaseError: the database is unavailable or slow.
    """
    with read_connection() as connection:
        row = select_key(connection, key.id, lock=False)
        subjects = _select_subjects(connection, key)
        shown = [subject for subject in subjects if subject.kind != "gateway" or key.is_operator]
        states = _select_states(connection, shown)
        costs = select_key_costs(connection, key.id)
    own = [state for state in states if state.of == "holder" and state.unit == "usd"]
    tightest = min(own, key=lambda state: state.remaining, default=None)
    return OwnKey(
        label=key.name if row is None else f"gw_{row.id[:4]}…{row.last_four}",
        name=key.name,
        group=next((subject.name for subject in subjects if subject.kind == "group"), None),
        is_operator=key.is_operator,
        limit=None if tightest is None else tightest.amount + tightest.extra,
        limit_remaining=None if tightest is None else tightest.remaining,
        limit_reset=None if tightest is None else _RESETS.get(tightest.window, tightest.window),
        usage=normalize(costs.total),
        usage_daily=normalize(costs.day),
        usage_weekly=normalize(costs.week),
        usage_monthly=normalize(costs.month),
        expires_at=None if row is None else row.expires_at,
        models=next((subject.models for subject in subjects if subject.models), []),
        budgets=[_make_budget(state) for state in states],
        rates=OwnRates(**{name: _get_least(subjects, name) for name in _RATES}),
    )


def select_own_budgets(key: Key) -> list[OwnBudget] | None:
    """Returns a key's view of its budgets, with the rest of each; None while the database is away."""
    try:
        with read_connection() as connection:
            subjects = _select_subjects(connection, key)
            states = _select_states(
                connection, [each for each in subjects if each.kind != "gateway" or key.is_operator]
            )
    except DatabaseError:
        return None
    return [_make_budget(state) for state in states]


def _select_subjects(connection: Connection, key: Key) -> list[SubjectRow]:
    """Returns the holder, its group and the gateway, in this order, as far as they exist."""
    found = select_subjects(connection, {key.holder_id, GATEWAY_ID})
    holder = found.get(key.holder_id)
    if holder is not None and holder.group_id is not None:
        found |= select_subjects(connection, {holder.group_id})
    wanted = [key.holder_id, "" if holder is None else holder.group_id, GATEWAY_ID]
    return [found[id] for id in wanted if id in found]


def _select_states(connection: Connection, subjects: list[SubjectRow]) -> list[BudgetState]:
    names = {subject.id: (subject.kind, subject.name) for subject in subjects}
    rows = select_budgets(connection, list(names)) if names else []
    states = select_budget_states(connection, rows, names)
    order = list(names)
    return [states[row.id] for row in sorted(rows, key=lambda row: order.index(row.subject_id))]


def _make_budget(state: BudgetState) -> OwnBudget:
    return OwnBudget(
        of=_OF.get(state.of, state.of),
        unit=state.unit,
        window=state.window,
        timezone=state.timezone,
        limit=state.amount + state.extra,
        charged=state.charged,
        in_use=state.in_use,
        remaining=state.remaining,
        used_percent=state.used_percent,
        resets_at=state.resets_at,
    )


def _get_least(subjects: list[SubjectRow], name: str) -> int | None:
    return min((value for subject in subjects if (value := getattr(subject, name)) is not None), default=None)
