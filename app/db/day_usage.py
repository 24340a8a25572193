"""Sums by UTC day, gateway and model, for all keys together, for one key, or for each key."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, Date, cast, func, literal, select, union_all

from app.db.rollup_tables import ALL_REQUESTS, KEY_PREFIX, model_usage, rollup_delta
from app.db.sums import Sums


class DayUsageRow(NamedTuple):
    """Sums of one UTC day, gateway and model."""

    day: date
    gateway: str
    model: str
    sums: Sums


class KeyUsageRow(NamedTuple):
    """Sums of one key, UTC day, gateway and model."""

    key_id: str
    day: date
    gateway: str
    model: str
    sums: Sums


def select_day_usage(connection: Connection, *, first: date, last: date) -> list[DayUsageRow]:
    """Returns the sums of all keys together from `first` to `last` (both included), oldest first."""
    rows = _select(connection, first, last, model_usage.c.subject == ALL_REQUESTS, literal(ALL_REQUESTS), [])
    return [DayUsageRow(*row[1:]) for row in rows]


def select_key_usage(
    connection: Connection, *, first: date, last: date, key_id: str | None = None
) -> list[KeyUsageRow]:
    """Returns the sums of one key, or of each, from `first` to `last` (both included), by key and oldest first."""
    usage, delta = model_usage.c, rollup_delta.c
    # Subjects are compared byte by byte, and ";" is the character after ":".
    every_key = usage.subject.between(KEY_PREFIX, KEY_PREFIX[:-1] + ";")
    wanted = every_key if key_id is None else usage.subject == KEY_PREFIX + key_id
    of_key = [] if key_id is None else [delta.key_id == key_id]
    rows = _select(connection, first, last, wanted, literal(KEY_PREFIX) + delta.key_id, of_key)
    return [KeyUsageRow(row[0].removeprefix(KEY_PREFIX), *row[1:]) for row in rows]


def _select(
    connection: Connection,
    first: date,
    last: date,
    wanted: ColumnElement[bool],
    delta_subject: ColumnElement[str],
    delta_conditions: list[ColumnElement[bool]],
) -> list[tuple[str, date, str, str, Sums]]:
    usage, delta = model_usage.c, rollup_delta.c
    start, end = (datetime.combine(day, time(), UTC) for day in (first, last + timedelta(days=1)))
    folded = select(usage.subject, usage.start, usage.gateway, usage.model, *[usage[name] for name in Sums._fields])
    waiting = select(
        delta_subject.collate("C"), delta.minute, delta.gateway, delta.model, *[delta[name] for name in Sums._fields]
    )
    rows = union_all(
        folded.where(wanted, usage.level == "day", usage.start >= start, usage.start < end),
        waiting.where(*delta_conditions, delta.minute >= start, delta.minute < end),
    ).subquery()
    day = cast(func.timezone("UTC", rows.c.start), Date)
    key = [rows.c.subject, day, rows.c.gateway, rows.c.model]
    # PostgreSQL's sum of bigint is numeric, which the driver would return as a Decimal.
    sums = [cast(func.sum(rows.c[name]), usage[name].type) for name in Sums._fields]
    result = connection.execute(select(*key, *sums).group_by(*key).order_by(*key))
    return [(row[0], row[1], row[2], row[3], Sums(*row[4:])) for row in result]
