"""Sums over all keys by UTC day, gateway and model; app/db/rollups.py has the sums of a single key."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import NamedTuple

from sqlalchemy import Connection, select

from app.db.rollups import Sums
from app.db.tables import model_rollup


class DayUsageRow(NamedTuple):
    """Sums of one UTC day, gateway and model."""

    day: date
    gateway: str
    model: str
    sums: Sums


def select_day_usage(connection: Connection, *, first: date, last: date) -> list[DayUsageRow]:
    """Returns the sums from `first` to `last` (both included), oldest first.

    The rollup by key would give the same sums, but reading it takes longer the more keys there are.
    """
    table = model_rollup.c
    query = select(table.start, table.gateway, table.model, *[table[name] for name in Sums._fields]).where(
        table.level == "day",
        table.start >= datetime.combine(first, time(), UTC),
        table.start < datetime.combine(last + timedelta(days=1), time(), UTC),
    )
    rows = connection.execute(query.order_by(*model_rollup.primary_key.columns))
    return [DayUsageRow(row[0].astimezone(UTC).date(), row[1], row[2], Sums(*row[3:])) for row in rows]
