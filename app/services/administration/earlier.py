"""The start value of a new budget: the cost of the requests in its periods before it was made."""

from __future__ import annotations

from app.db import Connection
from app.db.budgets import BudgetRow
from app.db.clock import select_now
from app.db.lease_sums import insert_earlier_charges
from app.services.limits import get_period


def charge_earlier_requests(connection: Connection, row: BudgetRow) -> None:
    """Charges a new budget with the cost of its subject's requests in the current periods.

    The cost comes from the sums of requests, which lack requests without a price and requests whose record is not in
    the database yet.

    Args:
        connection: in the transaction that creates the budget.
        row: the budget.
    """
    now_s = select_now(connection).timestamp()
    period = get_period(row.time_window, row.timezone, row.first_day, now_s)
    oldest = period.since or period.start
    while True:
        insert_earlier_charges(connection, row.id, row.subject_id, row.unit, period.start, period.end)
        if period.start <= oldest:
            return
        period = get_period(row.time_window, row.timezone, row.first_day, period.start.timestamp() - 1)
