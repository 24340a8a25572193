"""Reads the table activity page by page, newest first, with filters.

Keys, models, gateways, outcomes and times are found by indexes. Other conditions, such as a status or a duration, have
no index, because each would make every insert slower. For them rows are searched, newest first, and a page ends after
SEARCHED_ROWS rows, even if it found fewer. So no page reads the whole table, and the next one continues the search.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, FromClause, Select, literal, or_, select, tuple_

from app.db.tables import activity, activity_model

# A page of an export is about 2 MB in memory and takes the database about 20 ms.
EXPORT_PAGE_ROWS = 2_000

# The most rows that a page searches: about 0.1 s of the database's time.
SEARCHED_ROWS = 50_000

# Rows with a status of 400 or above, or an error, never have this outcome, and the other outcomes have an index.
_OK = "ok"
_FIRST_ERROR = "400"

# A status or a class of statuses.
STATUS_PATTERN = "^[1-5]([0-9][0-9]|xx)$"

# The fields of ActivityFilter without an index.
_SEARCHED = (
    "endpoint",
    "statuses",
    "error_type",
    "stream",
    "min_duration_ms",
    "max_duration_ms",
    "min_cost_usd",
    "max_cost_usd",
)


class ActivityCursor(NamedTuple):
    """The last row of a page; the next page begins after it."""

    started_at: datetime
    request_id: UUID


class ActivityPage(NamedTuple):
    """Some rows, newest first.

    Attributes:
        rows: every column of activity by name.
        end: the position after which the next page begins; None if there is none.
    """

    rows: list[dict[str, Any]]
    end: ActivityCursor | None


@dataclass(frozen=True, kw_only=True)
class ActivityFilter:
    """A filter for rows of activity. A field that is None restricts nothing.

    Attributes:
        start: the earliest start of a request, with a timezone, included.
        end: the latest start of a request, with a timezone, excluded.
        model: the full name of the model served or, without one, of the model requested.
        endpoint: the path of an endpoint.
        outcomes: some of app.db.tables.OUTCOMES.
        statuses: HTTP statuses such as "429", or classes of them such as "5xx" (STATUS_PATTERN).
        error_type: the `type` of the error.
        stream: whether a stream was requested.
        min_duration_ms, max_duration_ms, min_cost_usd, max_cost_usd: included. A row whose duration or cost is unknown
            matches no range of it.
    """

    start: datetime | None = None
    end: datetime | None = None
    model: str | None = None
    gateway: str | None = None
    endpoint: str | None = None
    key_id: str | None = None
    outcomes: tuple[str, ...] | None = None
    statuses: tuple[str, ...] | None = None
    error_type: str | None = None
    stream: bool | None = None
    min_duration_ms: float | None = None
    max_duration_ms: float | None = None
    min_cost_usd: float | None = None
    max_cost_usd: float | None = None

    def is_searched(self) -> bool:
        """Returns whether some of its conditions have no index."""
        return any(getattr(self, name) is not None for name in _SEARCHED)


def select_activity(
    connection: Connection,
    wanted: ActivityFilter,
    *,
    after: ActivityCursor | None = None,
    limit: int = 100,
    searched_rows: int = SEARCHED_ROWS,
) -> ActivityPage:
    """Returns the next rows after the cursor, newest first.

    Args:
        connection: a connection whose statements share a snapshot.
        wanted: the filter.
        after: the end of the previous page; None for the first page.
        limit: the most rows to return.
        searched_rows: how many rows to search if a condition has no index. A page that stops there may have fewer rows
            than `limit`, or none, and still has an `end`.
    """
    # One more row shows whether there is a next page.
    rows = [dict(row) for row in connection.execute(_select(wanted, after, limit + 1, searched_rows)).mappings()]
    if len(rows) > limit:
        last = rows[limit - 1]
        return ActivityPage(rows[:limit], ActivityCursor(last["started_at"], last["request_id"]))
    if not wanted.is_searched():
        return ActivityPage(rows, None)
    columns = activity.c.started_at, activity.c.request_id
    last_searched = select(*columns).where(*_indexed(wanted, after)).order_by(*_newest_first(activity))
    end = connection.execute(last_searched.offset(searched_rows - 1).limit(1)).one_or_none()
    return ActivityPage(rows, None if end is None else ActivityCursor(*end))


def _select(
    wanted: ActivityFilter, after: ActivityCursor | None, limit: int, searched_rows: int
) -> Select[tuple[Any, ...]]:
    query = select(activity).where(*_indexed(wanted, after)).order_by(*_newest_first(activity))
    if not wanted.is_searched():
        return query.limit(limit)
    searched = query.limit(searched_rows).subquery()
    return select(searched).where(*_unindexed(wanted, searched)).order_by(*_newest_first(searched)).limit(limit)


def select_newer(
    connection: Connection, wanted: ActivityFilter, than: ActivityCursor, searched_rows: int = SEARCHED_ROWS
) -> UUID | None:
    """Returns the id of the oldest wanted row that is newer than another; None if none of the next rows is wanted.

    Args:
        connection: the database.
        wanted: the filter.
        than: the other row.
        searched_rows: as in `select_activity`.
    """
    columns = activity.c
    oldest_first = [columns.started_at, columns.request_id]
    newer = tuple_(*oldest_first) > tuple_(*map(literal, than))
    # The first condition follows from the second, but PostgreSQL needs it to prune partitions.
    query = select(activity).where(*_indexed(wanted, None), columns.started_at >= than.started_at, newer)
    searched = query.order_by(*oldest_first).limit(searched_rows if wanted.is_searched() else 1).subquery()
    found = select(searched.c.request_id).where(*_unindexed(wanted, searched))
    return connection.execute(found.order_by(searched.c.started_at, searched.c.request_id).limit(1)).scalar()


def stream_activity(
    connect: Callable[[], AbstractContextManager[Connection]],
    wanted: ActivityFilter,
    *,
    page_rows: int = EXPORT_PAGE_ROWS,
) -> Iterator[dict[str, Any]]:
    """Yields all selected rows, newest first, in constant memory.

    Reads page by page along the primary key and holds no connection and no snapshot between pages, so a slow reader
    does not keep the database from cleaning up. Rows that are inserted meanwhile are included if they started before
    the reader's position.

    Args:
        connect: opens the connection for a page, for instance `engine.connect`.
        wanted: the filter.
        page_rows: how many rows to read at a time.
    """
    after = None
    while True:
        with connect() as connection:
            page = select_activity(connection, wanted, after=after, limit=page_rows)
        yield from page.rows
        if page.end is None:
            return
        after = page.end


def _newest_first(rows: FromClause) -> list[ColumnElement[Any]]:
    return [rows.c.started_at.desc(), rows.c.request_id.desc()]


def _indexed(wanted: ActivityFilter, after: ActivityCursor | None) -> list[ColumnElement[bool]]:
    rows = activity.c
    equal = {
        activity_model(): wanted.model,
        rows.gateway: wanted.gateway,
        rows.key_id: wanted.key_id,
    }
    conditions = [column == value for column, value in equal.items() if value is not None]
    if wanted.outcomes is not None:
        conditions.append(rows.outcome.in_(wanted.outcomes))
    elif wanted.error_type is not None or _are_errors(wanted.statuses):
        conditions.append(rows.outcome != _OK)
    if wanted.start is not None:
        conditions.append(rows.started_at >= wanted.start)
    if wanted.end is not None:
        conditions.append(rows.started_at < wanted.end)
    if after is not None:
        # The first condition follows from the second, but PostgreSQL needs it to prune partitions.
        conditions.append(rows.started_at <= after.started_at)
        conditions.append(tuple_(rows.started_at, rows.request_id) < tuple_(*map(literal, after)))
    return conditions


def _are_errors(statuses: tuple[str, ...] | None) -> bool:
    return statuses is not None and all(status >= _FIRST_ERROR for status in statuses)


def _unindexed(wanted: ActivityFilter, searched: FromClause) -> list[ColumnElement[bool]]:
    rows = searched.c
    conditions: list[ColumnElement[bool]] = []
    if wanted.endpoint is not None:
        conditions.append(rows.endpoint == wanted.endpoint)
    if wanted.statuses is not None:
        ranges = [(int(status.replace("x", "0")), int(status.replace("x", "9"))) for status in wanted.statuses]
        conditions.append(or_(*[rows.status.between(first, last) for first, last in ranges]))
    if wanted.error_type is not None:
        conditions.append(rows.error_type == wanted.error_type)
    if wanted.stream is not None:
        conditions.append(rows.stream.is_(wanted.stream))
    for column, least, most in (
        (rows.duration_ms, wanted.min_duration_ms, wanted.max_duration_ms),
        (rows.cost_usd, wanted.min_cost_usd, wanted.max_cost_usd),
    ):
        if least is not None:
            conditions.append(column >= least)
        if most is not None:
            conditions.append(column <= most)
    return conditions
