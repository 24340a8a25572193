"""The table activity: inserts rows in batches and reads them newest first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Engine, literal, select, tuple_
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, OperationalError

from app.db.insert_sql import insert_activity_sql, select_days_sql
from app.db.ledger import UPSERT_LEDGER, LedgerLine, encode_ledger_line
from app.db.partitions import insert_partitions
from app.db.tables import activity, activity_model

# A page of an export is about 2 MB in memory and takes the database about 20 ms.
EXPORT_PAGE_ROWS = 2_000

# The class of PostgreSQL's errors for values that are too long or too deep. The driver counts them among those of a
# database that is away, but sending the rows again would never help.
_PROGRAM_LIMIT = "54"

_INSERT = insert_activity_sql()
_INSERT_WITH_LEDGER = insert_activity_sql(also=UPSERT_LEDGER)
_SELECT_DAYS = select_days_sql()


class UnacceptableRows(Exception):
    """PostgreSQL will never accept at least one row of the batch; no row of the batch was written.

    The caller repairs the rows and sends them again.
    """


class ActivityCursor(NamedTuple):
    """The last row of a page; the next page begins after it."""

    started_at: datetime
    request_id: UUID


@dataclass(frozen=True, kw_only=True)
class ActivityFilter:
    """Which rows of activity to select. A field that is None restricts nothing.

    Attributes:
        start: the earliest start of a request, with a timezone, included.
        end: the latest start of a request, with a timezone, excluded.
        model: the full name of the model served or, without one, of the model requested.
        endpoint: the path of an endpoint.
        outcome: one of app.db.tables.OUTCOMES.
    """

    start: datetime | None = None
    end: datetime | None = None
    model: str | None = None
    gateway: str | None = None
    endpoint: str | None = None
    key_id: str | None = None
    outcome: str | None = None


def insert_activity(engine: Engine, rows: Sequence[bytes], line: LedgerLine | None = None) -> int:
    """Writes rows and counts them in one transaction, and returns how many rows were new.

    Rows that are in the table already, by started_at and request_id, and repeated rows of the batch are skipped, so a
    batch whose result is unknown can be sent again. This holds while the partition of their day exists: a batch that
    is repeated after retention has dropped its day is counted twice.

    Args:
        rows: JSON objects in UTF-8 with the column names of activity. Absent names are NULL, unknown ones are
            ignored, times are ISO 8601 with an offset. Texts are truncated to MAX_NAME_CHARACTERS.
        line: the ledger line of the worker that ships the rows, written in the same transaction. Its id becomes the
            worker_id of the rows.

    Raises:
        UnacceptableRows: a row is malformed, out of range, or holds a NUL character.
        DatabaseError: the database is unavailable, slow or locked; send the batch again later.
    """
    try:
        parameters = {"rows": (b"[" + b",".join(rows) + b"]").decode()}
        if line is not None:
            parameters["ledger"] = encode_ledger_line(line)
        try:
            return _insert(engine, parameters)
        except IntegrityError as error:
            if not _is_missing_partition(error):
                raise
        _insert_missing_partitions(engine, parameters)
        return _insert(engine, parameters)
    except (DataError, IntegrityError) as error:
        raise UnacceptableRows(_reason(error)) from error
    except OperationalError as error:
        if not str(getattr(error.orig, "pgcode", None)).startswith(_PROGRAM_LIMIT):
            raise
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
    """Returns up to `limit` rows after the cursor, newest first; every column of activity by name."""
    newest_first = [activity.c.started_at.desc(), activity.c.request_id.desc()]
    query = select(activity).where(*_conditions(wanted, after)).order_by(*newest_first).limit(limit)
    return [dict(row) for row in connection.execute(query).mappings()]


def stream_activity(
    connect: Callable[[], AbstractContextManager[Connection]],
    wanted: ActivityFilter,
    *,
    page_rows: int = EXPORT_PAGE_ROWS,
) -> Iterator[dict[str, Any]]:
    """Yields all selected rows, newest first, in constant memory.

    Reads page by page along the primary key and holds no connection and no snapshot between pages, so a slow reader
    does not keep the database from cleaning up. Rows that are inserted meanwhile are included if they started
    before the reader's position.

    Args:
        connect: opens the connection for a page, for instance `engine.connect`.
        wanted: which rows.
        page_rows: how many rows are read at a time.
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
    # The statement commits itself, so that its locks do not wait for a COMMIT from a client that may have died.
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        statement = _INSERT_WITH_LEDGER if "ledger" in parameters else _INSERT
        return int(connection.exec_driver_sql(statement, parameters).scalar_one())


def _is_missing_partition(error: IntegrityError) -> bool:
    # PostgreSQL reports a missing partition as a check violation without a constraint's name.
    diagnostics = getattr(error.orig, "diag", None)
    return getattr(error.orig, "pgcode", None) == "23514" and not getattr(diagnostics, "constraint_name", None)


def _reason(error: DBAPIError) -> str:
    # Only the first line: the details quote the row, and SQLAlchemy's own text repeats the whole statement.
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
        rows.endpoint: wanted.endpoint,
        rows.key_id: wanted.key_id,
        rows.outcome: wanted.outcome,
    }
    conditions = [column == value for column, value in equal.items() if value is not None]
    if wanted.start is not None:
        conditions.append(rows.started_at >= wanted.start)
    if wanted.end is not None:
        conditions.append(rows.started_at < wanted.end)
    if after is not None:
        # The first condition follows from the second, but PostgreSQL needs it to prune partitions.
        conditions.append(rows.started_at <= after.started_at)
        conditions.append(tuple_(rows.started_at, rows.request_id) < tuple_(*map(literal, after)))
    return conditions
