"""Providers' bills by UTC day and model (app/db/bill_tables.py), and the lock for fetching them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from decimal import Decimal
from typing import NamedTuple

from sqlalchemy import Connection, Engine, delete, func, insert, select, text
from sqlalchemy.dialects.postgresql import insert as upsert

from app.db.bill_tables import bill_day, bill_line, bill_run

# "bill" in ASCII. With this advisory lock, one worker of all hosts at a time fetches bills from the providers.
BILL_LOCK = 0x62696C6C


class BillDayRow(NamedTuple):
    """A day of a bill; `app.db.bill_tables` describes the columns."""

    day: date
    account: str | None
    has_costs: bool
    tag: str | None
    tag_prompt_tokens: int | None
    tag_completion_tokens: int | None
    fetched_at: datetime | None = None  # PostgreSQL's time at the write.


class BillLineRow(NamedTuple):
    """A model on a day of a bill; prices in USD per token."""

    day: date
    model: str
    prompt_tokens: int
    completion_tokens: int
    cost_usd: Decimal | None
    requests: int | None = None
    differing_requests: int | None = None
    prompt_price: Decimal | None = None
    cached_price: Decimal | None = None
    completion_price: Decimal | None = None


class BillRunRow(NamedTuple):
    """The last time that a provider was asked in the background; the end is None while a request is running."""

    started_at: datetime
    ended_at: datetime | None
    error: str | None


_PRICES = ("prompt_price", "cached_price", "completion_price")


def replace_bill(
    connection: Connection, gateway: str, days: Sequence[BillDayRow], lines: Sequence[BillLineRow]
) -> None:
    """Replaces the stored days of a bill. The price of a line, once written, stays.

    Args:
        connection: in a transaction; two transactions that write the same days wait for each other.
        gateway: the provider's name.
        days: the days with the times at which they were fetched, or None for now.
        lines: the lines of these days.
    """
    wanted = [row.day for row in days]
    line = bill_line.c
    stamp = upsert(bill_day)
    changed = {name: stamp.excluded[name] for name in BillDayRow._fields if name != "day"}
    statement = stamp.on_conflict_do_update(index_elements=["gateway", "day"], set_=changed)
    for row in days:
        at = row.fetched_at or connection.execute(select(func.now())).scalar_one()
        connection.execute(statement, {"gateway": gateway, **row._asdict(), "fetched_at": at})
    priced = select(line.day, line.model, *[line[name] for name in _PRICES]).where(
        line.gateway == gateway, line.day.in_(wanted), line.prompt_price.is_not(None)
    )
    kept = {(row[0], row[1]): dict(zip(_PRICES, row[2:], strict=True)) for row in connection.execute(priced)}
    connection.execute(delete(bill_line).where(line.gateway == gateway, line.day.in_(wanted)))
    values = [{"gateway": gateway, **row._asdict(), **kept.get((row.day, row.model), {})} for row in lines]
    if values:
        connection.execute(insert(bill_line), values)


def select_bill_days(connection: Connection, gateway: str, first: date, last: date) -> dict[date, BillDayRow]:
    """Returns the fetched days from `first` to `last`, both included."""
    columns = [bill_day.c[name] for name in BillDayRow._fields]
    query = select(*columns).where(bill_day.c.gateway == gateway, bill_day.c.day.between(first, last))
    return {row[0]: BillDayRow(*row) for row in connection.execute(query.order_by(bill_day.c.day))}


def select_bill_lines(connection: Connection, gateway: str, first: date, last: date) -> list[BillLineRow]:
    """Returns the lines of the days from `first` to `last`, both included, by day and model."""
    columns = [bill_line.c[name] for name in BillLineRow._fields]
    query = select(*columns).where(bill_line.c.gateway == gateway, bill_line.c.day.between(first, last))
    rows = connection.execute(query.order_by(bill_line.c.day, bill_line.c.model))
    return [BillLineRow(*row) for row in rows]


def select_bill_run(connection: Connection, gateway: str) -> BillRunRow | None:
    """Returns when the provider was last asked in the background; None if it never was."""
    columns = [bill_run.c[name] for name in BillRunRow._fields]
    row = connection.execute(select(*columns).where(bill_run.c.gateway == gateway)).first()
    return None if row is None else BillRunRow(*row)


def upsert_run_start(engine: Engine, gateway: str) -> None:
    """Notes that the provider is being asked."""
    with engine.begin() as connection:
        statement = upsert(bill_run).values(gateway=gateway, started_at=func.now())
        changed = {"started_at": func.now(), "ended_at": None, "error": None}
        connection.execute(statement.on_conflict_do_update(index_elements=["gateway"], set_=changed))


def update_run_end(engine: Engine, gateway: str, error: str | None) -> None:
    """Notes that the provider has been asked, and why that failed."""
    with engine.begin() as connection:
        values = {"ended_at": func.now(), "error": error}
        connection.execute(bill_run.update().where(bill_run.c.gateway == gateway).values(values))


@contextmanager
def bill_lock(engine: Engine) -> Iterator[bool]:
    """Yields whether only this worker may ask the providers now. The lock ends with the connection, even if the worker
    is killed, and no transaction is open while it is held.
    """
    with engine.connect() as connection:
        connection = connection.execution_options(isolation_level="AUTOCOMMIT")
        is_taken = bool(connection.execute(text("SELECT pg_try_advisory_lock(:n)"), {"n": BILL_LOCK}).scalar())
        try:
            yield is_taken
        finally:
            if is_taken:
                connection.execute(text("SELECT pg_advisory_unlock(:n)"), {"n": BILL_LOCK})
