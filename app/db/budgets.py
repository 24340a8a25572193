"""The tables budget, budget_period and budget_charge: the use that a subject may have in a window, and its charges.

Workers draw from budgets by functions of the database that lock the row of the budget. Changes here lock it too.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal, NamedTuple

from sqlalchemy import Connection, delete, func, insert, select, text, update

from app.db.leases import compute_period_id as compute_period_id
from app.db.limit_tables import budget, budget_charge, budget_lease, budget_period

Unit = Literal["usd", "tokens", "requests"]


class BudgetRow(NamedTuple):
    """One budget; `amount` is in its unit, and `ended_at` is None while it counts."""

    id: int
    subject_id: str
    unit: Unit
    amount: Decimal
    time_window: str
    timezone: str
    first_day: int
    warn_percents: list[int]
    created_at: datetime
    ended_at: datetime | None


class Span(NamedTuple):
    """The periods of a budget that count together, by the starts of the first and the last; usually a single period."""

    budget_id: int
    first_start: datetime
    last_start: datetime


class BudgetSums(NamedTuple):
    """The sums of a budget in a span; amounts in its unit.

    Attributes:
        extra: the amount added to the budget's own.
        granted: the amount that workers have drawn, for past, running and future requests.
        exact, estimated, ceiling: the charges of requests, by how well they are known.
        requests: the number of charged requests.
        oldest: the start of the oldest period with a granted amount; None if there is none.
    """

    extra: Decimal
    granted: Decimal
    exact: Decimal
    estimated: Decimal
    ceiling: Decimal
    requests: int
    oldest: datetime | None


_COLUMNS = [budget.c[name] for name in BudgetRow._fields]

# A budget's period ids ascend with the periods' starts.
_SELECT_SUMS = text("""
    SELECT wanted.budget, extra, granted, charges.*, oldest
    FROM jsonb_to_recordset(CAST(:spans AS jsonb)) AS wanted (budget bigint, first bigint, last bigint)
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(extra), 0) AS extra, coalesce(sum(granted), 0) AS granted,
            min(start_at) FILTER (WHERE granted > 0) AS oldest
        FROM budget_period WHERE id BETWEEN first AND last
    ) AS periods
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(exact), 0), coalesce(sum(estimated), 0), coalesce(sum(ceiling), 0),
            coalesce(sum(requests), 0)::bigint
        FROM budget_charge WHERE period_id BETWEEN first AND last
    ) AS charges
""")

# Active budgets with the sums of their current periods; the periods of budgets of one kind begin together. Without a
# minimum share, the page is cut before its sums are read.
_SELECT_PAGE = text(f"""
    SELECT {", ".join(f"budget.{name}" for name in BudgetRow._fields)}, subject.kind, subject.name, sums.*
    FROM (
        SELECT * FROM budget WHERE ended_at IS NULL AND id > :after
        ORDER BY id LIMIT CASE WHEN CAST(:above AS integer) IS NULL THEN CAST(:limit AS bigint) END
    ) AS budget
    JOIN jsonb_to_recordset(CAST(:kinds AS jsonb)) AS kinds (time_window text, timezone text, first_day smallint,
        first bigint, last bigint) USING (time_window, timezone, first_day)
    JOIN subject ON subject.id = budget.subject_id
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(extra), 0) AS extra, coalesce(sum(granted), 0) AS granted, charges.*,
            min(start_at) FILTER (WHERE granted > 0) AS oldest
        FROM (
            SELECT coalesce(sum(exact), 0) AS exact, coalesce(sum(estimated), 0) AS estimated,
                coalesce(sum(ceiling), 0) AS ceiling, coalesce(sum(requests), 0)::bigint AS requests
            FROM budget_charge
            WHERE period_id BETWEEN (budget.id << 32) + first AND (budget.id << 32) + last
        ) AS charges
        LEFT JOIN budget_period ON budget_period.id BETWEEN (budget.id << 32) + first AND (budget.id << 32) + last
        GROUP BY exact, estimated, ceiling, requests
    ) AS sums
    WHERE CAST(:above AS integer) IS NULL OR CASE WHEN budget.amount + extra = 0 THEN 100
        ELSE round((exact + estimated + ceiling) / (budget.amount + extra) * 100, 1) END >= :above
    ORDER BY budget.id LIMIT :limit
""")

_RAISE_PERIOD = text("""
    INSERT INTO budget_period (id, budget_id, start_at, end_at, extra) VALUES (:id, :budget_id, :start, :end, :extra)
    ON CONFLICT (id) DO UPDATE SET extra = budget_period.extra + excluded.extra
    RETURNING extra
""")


def insert_budget(connection: Connection, values: Mapping[str, Any]) -> BudgetRow:
    """Adds a budget with these columns and returns it.

    Raises:
        DatabaseError: the subject has a budget of this unit and window that has not ended.
    """
    return BudgetRow(*connection.execute(insert(budget).values(dict(values)).returning(*_COLUMNS)).one())


def select_budgets(
    connection: Connection, subject_ids: Collection[str] | None = None, *, lock: bool = False
) -> list[BudgetRow]:
    """Returns the active budgets of these subjects or of all, by id, which is the order in which draws lock them."""
    query = select(*_COLUMNS).where(budget.c.ended_at.is_(None)).order_by(budget.c.id)
    if subject_ids is not None:
        query = query.where(budget.c.subject_id.in_(subject_ids))
    if lock:
        query = query.with_for_update(key_share=True)
    return [BudgetRow(*row) for row in connection.execute(query)]


def select_budget_kinds(connection: Connection) -> list[tuple[str, str, int]]:
    """Returns the window, time zone and first day of the active budgets, each combination once."""
    columns = (budget.c.time_window, budget.c.timezone, budget.c.first_day)
    rows = connection.execute(select(*columns).where(budget.c.ended_at.is_(None)).distinct())
    return [(row[0], row[1], row[2]) for row in rows]


def select_budget_page(
    connection: Connection,
    spans: Mapping[tuple[str, str, int], tuple[datetime, datetime]],
    *,
    above: int | None,
    after: int | None,
    limit: int | None,
) -> list[tuple[BudgetRow, tuple[str, str], BudgetSums]]:
    """Returns active budgets by id, with the kind and name of their subject and their sums.

    Args:
        connection: the database.
        spans: (window, time zone, first day) → the starts of the first and the last period that count now. Budgets of
            other kinds are left out.
        above: only budgets of which at least this percentage is charged.
        after: the id of the last budget of the previous page.
        limit: the most budgets to return; None for all.
    """
    kinds = []
    for (window, timezone, first_day), (first, last) in spans.items():
        minutes = {"first": compute_period_id(0, first), "last": compute_period_id(0, last)}
        kinds.append({"time_window": window, "timezone": timezone, "first_day": first_day, **minutes})
    values = {"kinds": json.dumps(kinds), "above": above, "after": after or 0, "limit": limit}
    count = len(BudgetRow._fields)
    return [
        (BudgetRow(*row[:count]), (row[count], row[count + 1]), BudgetSums(*row[count + 2 :]))
        for row in connection.execute(_SELECT_PAGE, values)
    ]


def select_budget(connection: Connection, id: int, *, lock: bool) -> BudgetRow | None:
    """Returns a budget, even if it has ended; None if there is none. With `lock`, draws wait."""
    query = select(*_COLUMNS).where(budget.c.id == id)
    row = connection.execute(query.with_for_update(key_share=True) if lock else query).first()
    return None if row is None else BudgetRow(*row)


def update_budget(connection: Connection, id: int, values: Mapping[str, Any]) -> None:
    """Sets these columns of a budget."""
    connection.execute(update(budget).where(budget.c.id == id).values(dict(values)))


def update_budget_ended(connection: Connection, id: int) -> None:
    """Ends a budget, so that it no longer counts; its periods keep their charges."""
    connection.execute(update(budget).where(budget.c.id == id, budget.c.ended_at.is_(None)).values(ended_at=func.now()))


def update_period_raised(
    connection: Connection, budget_id: int, start: datetime, end: datetime | None, extra: Decimal
) -> Decimal:
    """Adds to the amount of a budget in this period only, and returns the total of such additions."""
    values = {"id": compute_period_id(budget_id, start), "budget_id": budget_id, "start": start, "end": end}
    return Decimal(connection.execute(_RAISE_PERIOD, values | {"extra": extra}).scalar_one())


def select_budget_sums(connection: Connection, spans: Sequence[Span]) -> dict[int, BudgetSums]:
    """Returns budget id → its sums, one for each span."""
    wanted = [
        {
            "budget": span.budget_id,
            "first": compute_period_id(span.budget_id, span.first_start),
            "last": compute_period_id(span.budget_id, span.last_start),
        }
        for span in spans
    ]
    rows = connection.execute(_SELECT_SUMS, {"spans": json.dumps(wanted)})
    return {row[0]: BudgetSums(*row[1:]) for row in rows}


def delete_budgets(connection: Connection, subject_id: str) -> None:
    """Deletes all budgets of a subject, with their periods, leases and charges. Later draws find no budget."""
    ids = connection.execute(select(budget.c.id).where(budget.c.subject_id == subject_id).with_for_update()).scalars()
    budgets = list(ids)
    periods = select(budget_period.c.id).where(budget_period.c.budget_id.in_(budgets))
    connection.execute(delete(budget_charge).where(budget_charge.c.period_id.in_(periods)))
    connection.execute(delete(budget_lease).where(budget_lease.c.period_id.in_(periods)))
    connection.execute(delete(budget_period).where(budget_period.c.budget_id.in_(budgets)))
    connection.execute(delete(budget).where(budget.c.id.in_(budgets)))
