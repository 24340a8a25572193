"""Costs stated in providers' answers, by day and model, beside the recorded costs."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, Connection, Date, Numeric, cast, func, literal, select

from app.db.bills import BillLineRow
from app.db.tables import activity

# A catalog price has few digits, and a provider may round its sum.
_TOLERANCE = "0.001"


def select_stated_costs(connection: Connection, gateway: str, start: datetime, end: datetime) -> list[BillLineRow]:
    """Returns the sums of the requests that started in [start, end) and whose answer stated a cost.

    A request differs if its recorded cost is exact and more than a thousandth away from the stated one.

    Args:
        connection: the database. A day of a million requests takes a second or two.
        gateway: the provider's name.
        start, end: with a timezone; rows dropped by retention are missing.
    """
    row = activity.c
    day = cast(func.timezone("UTC", row.started_at), Date)
    model = func.coalesce(row.model_served, "")
    differs = func.abs(row.cost_usd - row.stated_cost_usd) > row.stated_cost_usd * cast(literal(_TOLERANCE), Numeric)
    sums = [
        cast(func.coalesce(func.sum(row.prompt_tokens), 0), BigInteger),
        cast(func.coalesce(func.sum(row.completion_tokens), 0), BigInteger),
        func.sum(row.stated_cost_usd),
        func.count(),
        func.count().filter(row.cost_kind == "exact", differs),
    ]
    query = (
        select(day, model, *sums)
        .where(
            row.gateway == gateway,
            row.started_at >= start,
            row.started_at < end,
            row.stated_cost_usd.is_not(None),
        )
        .group_by(day, model)
        .order_by(day, model)
    )
    return [BillLineRow(*each) for each in connection.execute(query)]
