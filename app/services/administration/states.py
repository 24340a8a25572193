"""The state of budgets: charges, amounts held by workers, the rest, and the end of the period."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from functools import cache

import msgspec

from app.db import Connection
from app.db.budgets import (
    BudgetRow,
    BudgetSums,
    Span,
    select_budget_kinds,
    select_budget_page,
    select_budget_sums,
)
from app.db.clock import select_now
from app.services.administration.terms import normalize
from app.services.limits import Period, compute_reset, get_period
from app.yielding import with_pauses


class Charges(msgspec.Struct, frozen=True, kw_only=True):
    """The charges of requests, in the unit of the budget.

    Attributes:
        exact: by the provider's own figures.
        estimated: by figures that the gateway counted.
        ceiling: the most that they can have used, because it is not known.
    """

    exact: Decimal
    estimated: Decimal
    ceiling: Decimal


class BudgetState(msgspec.Struct, frozen=True, kw_only=True):
    """A budget and its current period. Amounts are in its unit.

    Attributes:
        id: for `budgets raise` and `budgets end`.
        of: whose it is: "holder", "group" or "gateway".
        name: that subject's name.
        amount: what the requests of a period may cost; `extra` is added to it in the current period alone.
        charged: what the requests of the current period were charged.
        requests: how many these are.
        in_use: what workers hold for requests that they serve, or expect.
        remaining: what is left.
        used_percent: the share of `amount` and `extra` that is charged.
        starts_at, resets_at: the current period; it has no end if the window is "total". For a rolling window, the sums
            are of all hours or days that count, and `resets_at` is when the oldest of them with some use stops counting
            or, if nothing is used, when use from now on would stop counting.
    """

    id: int
    of: str
    name: str
    unit: str
    window: str
    timezone: str
    first_day: int
    warn_percents: list[int]
    amount: Decimal
    extra: Decimal
    charged: Charges
    requests: int
    in_use: Decimal
    remaining: Decimal
    used_percent: float
    starts_at: datetime
    resets_at: datetime | None


def select_budget_states(
    connection: Connection, rows: Sequence[BudgetRow], subjects: Mapping[str, tuple[str, str]]
) -> dict[int, BudgetState]:
    """Returns id → state, in the order of the rows.

    Args:
        connection: the database.
        rows: the budgets.
        subjects: subject id → kind and name, for the subjects of the budgets.
    """
    if not rows:
        return {}
    now_s = select_now(connection).timestamp()
    find = cache(lambda window, timezone, first_day: get_period(window, timezone, first_day, now_s))
    periods: dict[int, Period] = {
        row.id: find(row.time_window, row.timezone, row.first_day) for row in with_pauses(rows)
    }
    spans = [Span(id, period.since or period.start, period.start) for id, period in periods.items()]
    sums = select_budget_sums(connection, spans)
    return {
        row.id: _make_state(row, subjects[row.subject_id], periods[row.id], sums[row.id]) for row in with_pauses(rows)
    }


def select_state_page(
    connection: Connection, *, above: int | None, after: int | None, limit: int | None
) -> list[BudgetState]:
    """Returns active budgets by id; arguments as for `app.db.budgets.select_budget_page`."""
    now_s = select_now(connection).timestamp()
    periods = {kind: get_period(*kind, now_s) for kind in select_budget_kinds(connection)}
    spans = {kind: (period.since or period.start, period.start) for kind, period in periods.items()}
    rows = select_budget_page(connection, spans, above=above, after=after, limit=limit)
    return [
        _make_state(row, subject, periods[row.time_window, row.timezone, row.first_day], sums)
        for row, subject, sums in with_pauses(rows)
    ]


def _make_state(row: BudgetRow, subject: tuple[str, str], period: Period, sums: BudgetSums) -> BudgetState:
    charged, total = sums.exact + sums.estimated + sums.ceiling, row.amount + sums.extra
    in_use = max(sums.granted - charged, Decimal(0))
    return BudgetState(
        id=row.id,
        of=subject[0],
        name=subject[1],
        unit=row.unit,
        window=row.time_window,
        timezone=row.timezone,
        first_day=row.first_day,
        warn_percents=row.warn_percents,
        amount=normalize(row.amount),
        extra=normalize(sums.extra),
        charged=Charges(
            exact=normalize(sums.exact), estimated=normalize(sums.estimated), ceiling=normalize(sums.ceiling)
        ),
        requests=sums.requests,
        in_use=normalize(in_use),
        remaining=normalize(max(total - charged - in_use, Decimal(0))),
        used_percent=round(float(charged / total * 100), 1) if total else 100.0,
        starts_at=period.since or period.start,
        resets_at=compute_reset(row.time_window, row.timezone, period, sums.oldest),
    )
