"""Rows of activity: written in batches together with the sums derived from them, and read newest first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Engine, literal, select, tuple_
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from app.db.insert_sql import insert_activity_sql, select_days_sql
from app.db.ledger import UPSERT_LEDGER, LedgerLine, encode_ledger
from app.db.partitions import insert_partitions
from app.db.tables import activity, activity_model

# A page of an export is some 2 MB in memory and takes the database some 20 ms.
EXPORT_PAGE_ROWS = 2_000

_INSERT = insert_activity_sql()
_INSERT_WITH_LEDGER = insert_activity_sql(also=UPSERT_LEDGER)
_SELECT_DAYS = select_days_sql()


class UnacceptableRows(Exception):
    """At least one row of the batch is such that PostgreSQL will never take it; none of the batch was written.

    Halving the batch finds the row.
    """


class ActivityCursor(NamedTuple):
    """The last row of a page: the next page begins after it."""

    started_at: datetime
    request_id: UUID


@dataclass(frozen=True, kw_only=True)
class ActivityFilter:
    """Which rows of activity are wanted; a field that is None does not choose.

    Attributes:
        start: the earliest time of a request's start, with a timezone, included.
        end: the latest, excluded.
        model: the model served or, where none was, requested; the whole name.
        outcome: one of app.db.tables.OUTCOMES.
    """

    start: datetime | None = None
    end: datetime | None = None
    model: str | None = None
    gateway: str | None = None
    key_id: str | None = None
    outcome: str | None = None


def insert_activity(engine: Engine, rows: Sequence[bytes], line: LedgerLine | None = None) -> int:
    """Writes rows and their sums in one transaction, and returns how many were not there before.

    Rows that are there already, by started_at and request_id, and rows that the batch repeats are skipped, so a
    batch whose fate is unknown can be sent again. That holds while their day's partition exists: a batch that is
    repeated after retention has dropped its day is counted twice.

    Args:
        rows: JSON objects in UTF-8 with the names of activity's columns; absent names are NULL, unknown ones are
            ignored, times are ISO 8601 with an offset. Texts are cut to 200 characters.
        line: the ledger's line of the worker that ships them, written with them.

    Raises:
        UnacceptableRows: some row is malformed, out of range, or holds a NUL character.
        sqlalchemy.exc.SQLAlchemyError: the database is away, slow or locked; send the batch again later.
    """
    try:
        parameters = {"rows": (b"[" + b",".join(rows) + b"]").decode()}
        if line is not None:
            parameters["ledger"] = encode_ledger(line)
        try:
            return _insert(engine, parameters)
        except IntegrityError as error:
            if not _is_missing_partition(error):
                raise
        _insert_missing_partitions(engine, parameters)
        return _insert(engine, parameters)
    except (DataError, IntegrityError) as error:
        raise UnacceptableRows(_reason(error)) from error
    except UnicodeDecodeError as error:
        raise UnacceptableRows("a row is not UTF-8") from error


def select_activity(
    connection: Connection,
    wanted: ActivityFilter,
    *,
    after: ActivityCursor | None = None,
    limit: int = 100,
) -> list[dict[str, Any]]:
    """Returns up to `limit` rows, newest first, that come after the cursor; every column of activity by name."""
    newest_first = [activity.c.started_at.desc(), activity.c.request_id.desc()]
    query = select(activity).where(*_conditions(wanted, after)).order_by(*newest_first).limit(limit)
    return [dict(row) for row in connection.execute(query).mappings()]


def stream_activity(
    connect: Callable[[], AbstractContextManager[Connection]],
    wanted: ActivityFilter,
    *,
    page_rows: int = EXPORT_PAGE_ROWS,
) -> Iterator[dict[str, Any]]:
    """Yields all rows wanted, newest first, in constant memory.

    It reads page by page along the primary key and holds no connection and no snapshot in between: a reader may
    be as slow as it likes without keeping the database from cleaning up. Rows that arrive meanwhile are seen if
    their start is older than where the reader is.

    Args:
        connect: gives the connection for a page, for instance `engine.connect`.
    """
    after = None
    while True:
        with connect() as connection:
            page = select_activity(connection, wanted, after=after, limit=page_rows)
        yield from page
        if len(page) < page_rows:
            return
        after = ActivityCursor(page[-1]["started_at"], page[-1]["request_id"])


def _insert(engine: Engine, parameters: dict[str, str]) -> int:
    # The statement commits itself: no lock waits for a COMMIT from a client that may have gone.
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        statement = _INSERT_WITH_LEDGER if "ledger" in parameters else _INSERT
        return int(connection.exec_driver_sql(statement, parameters).scalar_one())


def _is_missing_partition(error: IntegrityError) -> bool:
    # PostgreSQL reports it as a check violation that names the partitioned table and no constraint.
    diagnostics = getattr(error.orig, "diag", None)
    return getattr(error.orig, "pgcode", None) == "23514" and not getattr(diagnostics, "constraint_name", None)


def _reason(error: DBAPIError) -> str:
    # The first line alone: details quote the row, and SQLAlchemy's own text the whole statement.
    return str(error.orig).strip().partition("\n")[0]


def _insert_missing_partitions(engine: Engine, parameters: dict[str, str]) -> None:
    with engine.connect() as connection:
        days: list[date] = list(connection.exec_driver_sql(_SELECT_DAYS, parameters).scalars())
    with engine.begin() as connection:
        insert_partitions(connection, days)


def _conditions(wanted: ActivityFilter, after: ActivityCursor | None) -> list[ColumnElement[bool]]:
    rows = activity.c
    equal = {
        activity_model(): wanted.model,
        rows.gateway: wanted.gateway,
        rows.key_id: wanted.key_id,
        rows.outcome: wanted.outcome,
    }
    chosen = [column == value for column, value in equal.items() if value is not None]
    if wanted.start is not None:
        chosen.append(rows.started_at >= wanted.start)
    if wanted.end is not None:
        chosen.append(rows.started_at < wanted.end)
    if after is not None:
        # The first condition follows from the second, but it is the one by which PostgreSQL leaves out partitions.
        chosen.append(rows.started_at <= after.started_at)
        chosen.append(tuple_(rows.started_at, rows.request_id) < tuple_(*map(literal, after)))
    return chosen
