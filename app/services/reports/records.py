"""Reads records of requests back in pages, and the daily use of keys."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from itertools import islice
from typing import Any, Literal
from uuid import UUID

import msgspec

from app.cursors import decode_cursor, decode_time, encode_cursor, encode_time
from app.db import read_connection
from app.db.activity_pages import ActivityCursor, ActivityFilter, select_activity, select_newer, stream_activity
from app.db.clock import select_now
from app.db.day_usage import DayUsageRow, KeyUsageRow, select_day_usage, select_key_usage
from app.db.sums import sum_up
from app.errors import BadRequest
from app.services.reports.totals import make_totals, normalize_usd

# Reading and encoding a page of this many rows takes some 40 ms, in which the worker relays no events.
MAX_PAGE_ROWS = 1_000

# An export reads page after page, so its pages are small: each delays the worker's streams by some 5 ms only.
EXPORT_PAGE_ROWS = 200

# A year of fifty models is 18,000 rows of 300 bytes.
MAX_USAGE_DAYS = 366
DEFAULT_USAGE_DAYS = 30

# The microseconds since the epoch and the id: 24 bytes, which base64 turns into 32 characters without padding.
_CURSOR = struct.Struct(">q16s")


class ActivityPage(msgspec.Struct, frozen=True, kw_only=True):
    """One page of records.

    Attributes:
        data: newest first; the columns of the table activity by name.
        next_cursor: the cursor of the next page; None on the last page.
        searched_to: the start of the oldest record that was looked at, if the page ended there before it was full;
            otherwise None. Only conditions without an index end a page early (app/db/activity_pages.py).
    """

    object: Literal["list"] = "list"
    data: list[dict[str, Any]]
    has_more: bool
    next_cursor: str | None
    searched_to: datetime | None


class UsageDay(msgspec.Struct, frozen=True, kw_only=True):
    """The use of one model at one gateway on one UTC day.

    Attributes:
        gateway, model: None for requests for which none was chosen.
        errors: requests with another outcome than ok.

    Tokens and costs are those of `totals.make_totals`.
    """

    day: date
    gateway: str | None
    model: str | None
    requests: int
    errors: int
    total_tokens: int | None
    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int | None
    total_cost: Decimal | None
    estimated_cost: Decimal | None
    unpriced_requests: int


class UsageReport(msgspec.Struct, frozen=True, kw_only=True):
    """The use of a key, or of all keys together.

    Attributes:
        key: the key's id; None for all keys.
        start, end: `from` and `to` in JSON: the first day, and the day after the last.
        days: newest day first, and within a day the most requests first.

    Tokens and costs are those of `totals.make_totals`.
    """

    key: str | None
    start: date = msgspec.field(name="from")
    end: date = msgspec.field(name="to")
    total_requests: int
    total_tokens: int | None
    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int | None
    total_cost: Decimal | None
    estimated_cost: Decimal | None
    unpriced_requests: int
    days: list[UsageDay]


def select_activity_page(chosen: ActivityFilter, cursor: str | None, limit: int) -> ActivityPage:
    """Returns up to `limit` records, newest first; fewer if a search ended early, which `searched_to` shows.

    Args:
        chosen: the filter.
        cursor: `next_cursor` of the previous page; None for the first page.
        limit: at most MAX_PAGE_ROWS.

    Raises:
        BadRequest: the cursor is not one that the gateway made.
        DatabaseError: the database is unavailable or slow.
    """
    after = None if cursor is None else decode_cursor(cursor, _read_place)
    with read_connection() as connection:
        page = select_activity(connection, chosen, after=after, limit=limit)
    return ActivityPage(
        data=[make_record(row) for row in page.rows],
        has_more=page.end is not None,
        next_cursor=None if page.end is None else _make_cursor(page.end),
        searched_to=page.end.started_at if page.end is not None and len(page.rows) < limit else None,
    )


def select_neighbours(chosen: ActivityFilter, row: dict[str, Any]) -> tuple[UUID | None, UUID | None]:
    """Returns the ids of the chosen records next to one in time: the next newer and the next older.

    Args:
        chosen: the filter. The record itself need not match it.
        row: that record.

    Raises:
        DatabaseError: the database is unavailable or slow.
    """
    here = ActivityCursor(row["started_at"], row["request_id"])
    with read_connection() as connection:
        newer = select_newer(connection, chosen, here)
        older = select_activity(connection, chosen, after=here, limit=1).rows
    return newer, older[0]["request_id"] if older else None


def _read_place(content: bytes) -> ActivityCursor:
    microseconds, request_id = _CURSOR.unpack(content)
    return ActivityCursor(decode_time(microseconds), UUID(bytes=request_id))


def _make_cursor(place: ActivityCursor) -> str:
    return encode_cursor(_CURSOR.pack(encode_time(place.started_at), place.request_id.bytes))


def make_record(row: dict[str, Any]) -> dict[str, Any]:
    """Returns a row of activity in the form for callers."""
    costs = {name: row[name] for name in ("cost_usd", "stated_cost_usd") if row[name] is not None}
    return row | {name: normalize_usd(cost) for name, cost in costs.items()} if costs else row


def stream_activity_pages(chosen: ActivityFilter) -> Iterator[list[dict[str, Any]]]:
    """Yields all chosen rows, newest first, EXPORT_PAGE_ROWS at a time; no connection is held between pages.

    Raises:
        DatabaseError: the database is unavailable or slow.
    """
    rows = stream_activity(read_connection, chosen, page_rows=EXPORT_PAGE_ROWS)
    while page := list(islice(rows, EXPORT_PAGE_ROWS)):
        yield page


def select_usage_report(key_id: str | None, start: date | None, end: date | None) -> UsageReport:
    """Returns the use by UTC day, gateway and model, and the totals.

    Args:
        key_id: the key, or None for all keys together.
        start: the first day; by default DEFAULT_USAGE_DAYS before `end`.
        end: the day after the last; by default tomorrow by PostgreSQL's clock.

    Raises:
        BadRequest: there are no days from `start` to `end`, or more than MAX_USAGE_DAYS.
        DatabaseError: the database is unavailable or slow.
    """
    end = end or _select_today() + timedelta(days=1)
    start = start or end - timedelta(days=DEFAULT_USAGE_DAYS)
    if not timedelta(0) < end - start <= timedelta(days=MAX_USAGE_DAYS):
        raise BadRequest(
            f"`from` must be before `to`, by at most {MAX_USAGE_DAYS} days.", param="from", code="invalid_parameter"
        )
    rows = _select_days(key_id, start, end - timedelta(days=1))
    total = sum_up(row.sums for row in rows)
    return UsageReport(
        key=key_id,
        start=start,
        end=end,
        total_requests=total.requests,
        **make_totals(total),
        days=[_make_day(row) for row in rows],
    )


def _select_today() -> date:
    with read_connection() as connection:
        return select_now(connection).date()


def _select_days(key_id: str | None, first: date, last: date) -> Sequence[DayUsageRow | KeyUsageRow]:
    rows: list[DayUsageRow | KeyUsageRow] = []
    with read_connection() as connection:
        if key_id is None:
            rows += select_day_usage(connection, first=first, last=last)
        else:
            rows += select_key_usage(connection, first=first, last=last, key_id=key_id)
    return sorted(rows, key=lambda row: (row.day, row.sums.requests), reverse=True)


def _make_day(row: DayUsageRow | KeyUsageRow) -> UsageDay:
    return UsageDay(
        day=row.day,
        gateway=row.gateway or None,
        model=row.model or None,
        requests=row.sums.requests,
        errors=row.sums.requests - row.sums.ok_requests,
        **make_totals(row.sums),
    )
