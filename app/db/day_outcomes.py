"""The outcomes of the requests of a UTC day, by gateway and model."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, date, datetime, time, timedelta
from typing import NamedTuple

from sqlalchemy import BigInteger, Connection, Date, cast, func, literal, select, union_all

from app.db.rollup_tables import MODEL_PREFIX, outcome_usage, rollup_delta


class DayOutcomeRow(NamedTuple):
    """The number of a model's requests on a day with one outcome."""

    day: date
    model: str
    outcome: str
    requests: int


def select_day_outcomes(
    connection: Connection, gateway: str, outcomes: Collection[str], *, first: date, last: date
) -> list[DayOutcomeRow]:
    """Returns the requests with one of these outcomes from `first` to `last`, both included.

    Requests whose model neither a list nor a response confirmed are left out.
    """
    usage, delta = outcome_usage.c, rollup_delta.c
    start, end = (datetime.combine(day, time(), UTC) for day in (first, last + timedelta(days=1)))
    # Subjects are compared byte by byte, and ";" is the character after ":".
    of_models = usage.subject.between(MODEL_PREFIX, MODEL_PREFIX[:-1] + ";")
    folded = select(usage.subject, usage.start, usage.outcome, usage.requests).where(
        of_models,
        usage.level == "day",
        usage.start >= start,
        usage.start < end,
        usage.gateway == gateway,
        usage.outcome.in_(outcomes),
    )
    subject = (literal(MODEL_PREFIX) + delta.model).collate("C")
    waiting = select(subject, delta.minute, delta.outcome, delta.requests).where(
        delta.minute >= start,
        delta.minute < end,
        delta.gateway == gateway,
        delta.outcome.in_(outcomes),
        delta.model != "",
    )
    rows = union_all(folded, waiting).subquery()
    key = [cast(func.timezone("UTC", rows.c.start), Date), rows.c.subject, rows.c.outcome]
    found = connection.execute(select(*key, cast(func.sum(rows.c.requests), BigInteger)).group_by(*key).order_by(*key))
    return [DayOutcomeRow(row[0], row[1].removeprefix(MODEL_PREFIX), row[2], row[3]) for row in found]
